// Draws an explorer's picture, and sends what the reader does; what it means is computed in Python (base.py).

// JupyterLab takes arrows and letters from a focused element that does not itself carry this.
const KEYS = { "data-lm-suppress-shortcuts": "true" };

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// ------------------------------------------------------------------------------------------- colors
function rgb(color) {
  const hex = /^#(..)(..)(..)$/.exec(color);
  return hex ? hex.slice(1).map((part) => parseInt(part, 16)) : color.match(/[\d.]+/g).slice(0, 3).map(Number);
}
const css = (parts) => `rgb(${parts.map(Math.round).join(" ")})`;
const mix = (a, b, share) => a.map((part, i) => part + (b[i] - part) * share);
const light = ([r, g, b]) => 0.299 * r + 0.587 * g + 0.114 * b;

function palette(root, colors) {
  const style = getComputedStyle(root);
  const found = Object.fromEntries(Object.entries(colors).map(([name, color]) => [name, rgb(color)]));
  const paper = rgb(style.backgroundColor), ink = rgb(style.color);
  if (light(paper) < 128) {
    for (const name of Object.keys(found)) found[name] = mix(found[name], [255, 255, 255], 0.35);
    Object.assign(found, { muted: mix(paper, ink, 0.72), line: mix(paper, ink, 0.3) });
  }
  return Object.assign(found, { paper, ink, font: style.fontFamily });
}

// --------------------------------------------------------------------------------------------- marks
const marks = {
  rect(pen, m, ink) {
    if (m.fill) {
      pen.globalAlpha = m.alpha;
      pen.fillStyle = css(ink[m.fill]);
      pen.fillRect(m.x, m.y, m.width, m.height);
      pen.globalAlpha = 1;
    }
    if (!m.stroke) return;
    stroke(pen, m, ink);
    pen.strokeRect(m.x, m.y, m.width, m.height);
    if (!m.hatch) return;
    pen.save();
    pen.beginPath();
    pen.rect(m.x, m.y, m.width, m.height);
    pen.clip();
    pen.lineWidth = 1;
    pen.globalAlpha = 0.45; // numbers under it stay readable
    pen.beginPath();
    for (let x = m.x - m.height; x < m.x + m.width; x += 7) {
      pen.moveTo(x, m.y + m.height);
      pen.lineTo(x + m.height, m.y);
    }
    pen.stroke();
    pen.restore();
  },
  line(pen, m, ink) {
    stroke(pen, m, ink);
    pen.beginPath();
    for (const [x, y] of m.points) pen.lineTo(x, y);
    pen.stroke();
  },
  dot(pen, m, ink) {
    pen.beginPath();
    pen.arc(m.x, m.y, m.radius, 0, 2 * Math.PI);
    pen.fillStyle = css(ink[m.fill]);
    pen.fill();
  },
  text(pen, m, ink) {
    write(pen, m.text, m.x, m.y, `${m.bold ? 600 : 400} ${m.size}px ${ink.font}`, css(ink[m.color]), m.align);
  },
  cells(pen, m, ink) {
    m.values.forEach((row, i) => row.forEach((value, j) => {
      const shade = mix(ink.paper, ink[m.color], value), x = m.x + j * m.size, y = m.y + i * m.size;
      pen.fillStyle = css(shade);
      pen.fillRect(x, y, m.size + 0.3, m.size + 0.3);
      if (!m.texts.length) return;
      const font = `${Math.min(13, 0.45 * m.size)}px ${ink.font}`, black = light(shade) >= 127.5 ? "#111" : "#fff";
      write(pen, m.texts[i][j], x + m.size / 2, y + m.size / 2, font, black, "center");
    }));
  },
  image(pen, m) {
    const bytes = Uint8Array.from(atob(m.data), (letter) => letter.charCodeAt(0));
    const pixels = new ImageData(m.columns, m.rows);
    for (let i = 0; i < m.rows * m.columns; i++) pixels.data.set([...bytes.subarray(3 * i, 3 * i + 3), 255], 4 * i);
    const small = element("canvas", { width: m.columns, height: m.rows });
    small.getContext("2d").putImageData(pixels, 0, 0);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(small, m.x, m.y, m.width, m.height);
  },
};

function stroke(pen, m, ink) {
  pen.strokeStyle = css(ink[m.stroke]);
  pen.lineWidth = m.line;
  pen.lineJoin = "round";
  pen.setLineDash(m.dash ? [3 * m.line, 1.5 * m.line] : []);
}

function write(pen, text, x, y, font, color, align) {
  pen.font = font;
  pen.textAlign = align;
  pen.textBaseline = "middle";
  pen.fillStyle = color;
  pen.fillText(text, x, y);
}

// ---------------------------------------------------------------------------------------- the explorer
function render({ model, el }) {
  const controls = element("div", { class: "pg-controls" }), panels = element("div", { class: "pg-panels" });
  const summary = element("p", { class: "pg-summary", "aria-live": "polite" });
  const hint = element("p", { class: "pg-hint", id: `pg-${Math.random().toString(36).slice(2)}` });
  const root = element("div", { class: "pg-explorer" });
  root.append(controls, panels, summary, hint);
  el.append(root);

  const waiting = [];
  let asked = false;
  function send(what, ...args) {
    const last = waiting.at(-1);
    const replaces = last && last.what === what && last.arguments[0] === args[0] && ["drag", "change"].includes(what);
    if (replaces) waiting.pop();
    waiting.push({ what, arguments: args });
    next();
  }
  function next() {
    if (asked || !waiting.length) return;
    asked = true;
    model.send(waiting.shift());
  }

  function control(c) {
    if (c.kind === "button") {
      const made = element("button", { ...KEYS, type: "button", name: c.name }, c.label);
      made.addEventListener("click", () => send("push", c.name));
      return made;
    }
    const input = element(c.kind === "choice" ? "select" : "input", { ...KEYS, type: c.kind, name: c.name });
    if (c.kind === "choice") input.append(...c.options.map((option) => element("option", { value: option }, option)));
    input.addEventListener("input", () => {
      if (c.kind === "choice") send("change", c.name, input.value);
      else if (input.value !== "" && input.checkValidity()) send("change", c.name, Number(input.value));
    });
    return element("label", {}, c.label, input, ...(c.kind === "range" ? [element("output", {})] : []));
  }

  function showControls(list) {
    const shape = JSON.stringify(list.map((c) => [c.kind, c.name, c.label, c.group, c.options]));
    if (controls.dataset.shape !== shape) {
      const groups = {}, focus = controls.contains(document.activeElement) && document.activeElement.name;
      const single = list.filter((c) => !c.group).map(control);
      for (const c of list.filter((c) => c.group)) {
        (groups[c.group] ??= element("fieldset", {}, element("legend", {}, c.group))).append(control(c));
      }
      controls.replaceChildren(...single, element("div", { class: "pg-groups" }, ...Object.values(groups)));
      controls.dataset.shape = shape;
      if (focus) controls.querySelector(`[name="${focus}"]`)?.focus();
    }
    for (const c of list.filter(({ kind }) => kind !== "button")) {
      const input = controls.querySelector(`[name="${c.name}"]`);
      if (c.kind !== "choice") Object.assign(input, { min: c.low, max: c.high });
      if (input.value !== String(c.value) && !(waiting.length && input === document.activeElement)) input.value = c.value;
      if (c.kind !== "range") continue;
      input.nextSibling.textContent = c.text || c.value;
      input.setAttribute("aria-valuetext", c.text || c.value);
    }
  }

  function canvas(index) {
    const made = element("canvas", { ...KEYS, "aria-describedby": hint.id });
    const at = (event) => {
      const box = made.getBoundingClientRect(), { width, height } = model.get("picture").panels[index];
      return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
    };
    made.addEventListener("pointerdown", (event) => {
      if (!made.hasAttribute("tabindex") || event.button) return;
      made.setPointerCapture(event.pointerId);
      send("press", index, ...at(event));
    });
    made.addEventListener("pointermove", (event) => {
      if (made.hasPointerCapture(event.pointerId)) send("drag", index, ...at(event));
    });
    made.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (!model.get("picture").panels[index].keys.includes(event.key)) return;
      event.preventDefault();
      send("key", index, event.key, event.shiftKey);
    });
    return made;
  }

  function showPanel(made, panel, ink) {
    const sharp = window.devicePixelRatio || 1;
    Object.assign(made, { width: Math.round(panel.width * sharp), height: Math.round(panel.height * sharp) });
    made.style.width = `${panel.width}px`;
    made.style.aspectRatio = `${panel.width} / ${panel.height}`;
    made.setAttribute("role", panel.keys.length ? "application" : "img");
    made.setAttribute("aria-label", panel.label);
    if (panel.keys.length) made.setAttribute("tabindex", "0");
    else made.removeAttribute("tabindex");
    const pen = made.getContext("2d");
    pen.scale(sharp, sharp);
    for (const mark of panel.marks) marks[mark.kind](pen, mark, ink);
  }

  function show() {
    const picture = model.get("picture"), ink = palette(root, picture.colors);
    root.style.setProperty("--pg-accent", css(ink.true));
    showControls(picture.controls);
    while (panels.children.length < picture.panels.length) panels.append(canvas(panels.children.length));
    while (panels.children.length > picture.panels.length) panels.lastChild.remove();
    picture.panels.forEach((panel, i) => showPanel(panels.children[i], panel, ink));
    if (hint.textContent !== picture.hint) hint.textContent = picture.hint;
    if (summary.textContent !== picture.summary) summary.textContent = picture.summary;
  }
  function answered() {
    asked = false;
    show();
    next();
  }

  model.on("change:picture", answered);
  const themes = new MutationObserver(show);
  themes.observe(document.body, { attributes: true });
  requestAnimationFrame(show); // once it is in the page, and has the theme's colors
  return () => {
    model.off("change:picture", answered);
    themes.disconnect();
  };
}

export default { render };

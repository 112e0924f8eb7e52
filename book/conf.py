"""The book as static HTML, made of stored outputs and installed packages alone: `make site`.

The chapters stay plain Markdown that reads well in JupyterLab. What a page adds is read off their text:
numbers of figures, anchors of theorems, lemmas and exercises, and links from wherever one of them is named.
"""

import json
import re
from html import escape
from pathlib import Path

from docutils import nodes
from ipython_pygments_lexers import IPython3Lexer
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

project = "pglearn"
author = "The pglearn maintainers"
copyright = "The pglearn maintainers. Text and figures: CC BY 4.0; code: Apache-2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton", "sphinx-mathjax-offline"]

# The source is the whole repository, so that links lead where they do there. The labs' masters show their
# solutions unfolded, so they are no pages; their guide is one.
root_doc = "book/index"
include_patterns = ["book/*.*", "book/labs/*.md", "data/*.md", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
exclude_patterns = [".*", "**/.*", "build", "mutants"]

nb_execution_mode = "off"
nb_render_markdown_format = "gfm"  # tables in outputs
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # no widget is stored: an explorer leaves a still picture
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_dmath_double_inline = True
myst_heading_anchors = 4
highlight_language = "text"
default_role = "code"
copybutton_prompt_text = ">>> "

add_module_names = False
toc_object_entries_show_parents = "hide"  # beside a page is no room for them
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
FOREIGN = r"(torch|nn|numpy|np|os|pathlib|collections|fractions|typing|dict|Tensor|Axes|Figure|.*\._T)\b.*"
nitpick_ignore_regex = [("py:class", FOREIGN)]  # their documentation is on the net

html_theme = "sphinx_book_theme"
html_title = "pglearn"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_use_index = html_domain_indices = False  # search finds more
html_context = {"default_mode": "auto"}
html_theme_options = {"use_download_button": True, "show_toc_level": 2, "navbar_persistent": []}

RESULTS = """# All results

Every defense on every shipped bank of evidence (`data/*-bank.safetensors`), against two sizes of patch, for
the top 1 and the top 3 classes: `make results` counts them again. Each share of the `images` stands with
Wilson's 95 % interval; `seconds` are for all images of a row."""
NUMBERED = r"(?:Theorem|Lemma|Figure|Exercise) \d+\.\d+"


def label(app: Sphinx, node: nodes.Element, name: str) -> None:
    """Give the node the anchor of its name: `Lemma 5.2` is `#lemma-5-2`."""
    anchor = re.sub(r"\W", "-", name.lower())
    node["ids"].insert(0, anchor)
    app.env.domains.standard_domain.note_hyperlink_target(name.lower(), app.env.docname, anchor, name)


def number_figures(app: Sphinx, doctree: nodes.document, path: Path) -> None:
    """Number the stored pictures. Their alt text is the caption too, which screen readers then skip."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    alts = [o["metadata"]["image/png"]["alt"] for o in outputs if "image/png" in o.get("data", {})]
    for number, (image, alt) in enumerate(zip(list(doctree.findall(nodes.image)), alts, strict=True), 1):
        name = f"Figure {int(path.name[:2])}.{number}"
        text = nodes.raw("", f'<span aria-hidden="true">{escape(alt)}</span>', format="html")
        figure = nodes.figure()
        label(app, figure, name)
        image["alt"] = alt
        image.replace_self(figure)
        box = nodes.container("", image, classes=["pst-scrollable-table-container"])  # by keyboard too
        figure += [box, nodes.caption("", "", nodes.strong("", name), nodes.Text(" "), text)]


def anchor_statements(app: Sphinx, doctree: nodes.document) -> None:
    """Give theorems, lemmas and exercises, which carry their numbers in the text, their anchors."""
    for strong in doctree.findall(nodes.strong):
        block = strong.parent.parent
        if (found := re.match(NUMBERED, strong.astext())) and isinstance(block, nodes.block_quote):
            block["classes"].append("statement")
            label(app, block, found[0])
    for section in doctree.findall(nodes.section):
        if found := re.match(NUMBERED, section[0].astext()):
            label(app, section, found[0])


def say_where_to_run(doctree: nodes.document, path: Path) -> None:
    """A page can only be read; above the exercises it says where they can be done."""
    for section in doctree.findall(nodes.section):
        if section[0].astext() == "Exercises":
            how = nodes.paragraph("", "To have answers checked, run the chapter: clone the repository, type ")
            how += [nodes.literal("", "make book"), nodes.Text(", and open ")]
            how += [nodes.literal("", f"book/{path.name}"), nodes.Text(" in JupyterLab.")]
            section.insert(1, nodes.tip("", how))


def link_names(doctree: nodes.document) -> None:
    """Link `Lemma 5.2` wherever it is named. One that does not exist is a warning of the build."""
    for text in list(doctree.findall(nodes.Text)):
        if not isinstance(text.parent, nodes.paragraph | nodes.emphasis):
            continue
        parts = re.split(f"({NUMBERED})", text)
        for i in range(1, len(parts), 2):
            goal = {"refdomain": "std", "reftype": "ref", "reftarget": parts[i].lower()}
            link = pending_xref("", nodes.inline("", parts[i]), refexplicit=True, refwarn=True, **goal)
            parts[i] = link
        if len(parts) > 1:
            text.parent.replace(text, [nodes.Text(part) if isinstance(part, str) else part for part in parts])


def keep_marks(doctree: nodes.document) -> None:
    """A comma or full stop stays on the line of the formula before it."""
    for formula in list(doctree.findall(nodes.math)):
        text = formula.next_node(descend=False, siblings=True)
        if isinstance(text, nodes.Text) and (mark := re.match(r"[.,;:?!)”]+", text)):
            text.parent.replace(text, nodes.Text(text[mark.end() :]))
            formula.replace_self(
                nodes.inline("", "", formula.deepcopy(), nodes.Text(mark[0]), classes=["marked"])
            )


def doctree_read(app: Sphinx, doctree: nodes.document) -> None:
    path = Path(app.env.doc2path(app.env.docname))
    if path.suffix == ".ipynb":
        number_figures(app, doctree, path)
        anchor_statements(app, doctree)
        say_where_to_run(doctree, path)
    link_names(doctree)
    keep_marks(doctree)


def title_results(app: Sphinx, docname: str, source: list[str]) -> None:
    """The table that `pglearn compare` writes has no title of its own, and no words."""
    if docname == "data/results":
        source[0] = f"{RESULTS}\n\n{source[0]}"


def front_door(app: Sphinx, error: Exception | None) -> None:
    """The top of the site leads into the book."""
    page = """<!doctype html><html lang="en"><meta charset="utf-8"><title>pglearn</title>
<meta http-equiv="refresh" content="0; url=book/index.html">
<main><a href="book/index.html">The book</a></main>
"""
    Path(app.outdir, "index.html").write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> None:
    app.add_lexer("python", IPython3Lexer)  # cells that begin with !
    app.connect("source-read", title_results)
    app.connect("doctree-read", doctree_read)
    app.connect("build-finished", front_door)

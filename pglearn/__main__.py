"""``python -m pglearn`` is ``pglearn``."""

from pglearn.cli import main

raise SystemExit(main())

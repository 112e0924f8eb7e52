"""Provable defenses against adversarial patches: PatchGuard with its appendix, to be read in an evening."""

from pglearn.errors import InputError

__all__ = ["InputError", "__version__"]
__version__ = "0.1.0"

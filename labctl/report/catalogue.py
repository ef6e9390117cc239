"""The pages of the catalogue."""

from labctl.results.catalogue import Catalogue


def render(made: Catalogue) -> str:
    return ""


def render_markdown(made: Catalogue) -> str:
    return ""

"""The lineage page as a Metaflow card: the page as it is, which needs no network and no other card's code."""

from typing import Any

from metaflow.plugins.cards.card_modules.card import MetaflowCard


class LineageCard(MetaflowCard):
    """Shows the HTML page that the task keeps in its artifact `lineage_page`."""

    type: str = "progdistill_lineage"  # type: ignore[assignment]  # Metaflow's own has None and no annotation

    def render(self, task: Any) -> str:
        """The page of a finished task."""
        page: str = task["lineage_page"].data
        return page


def register() -> None:
    """Make the card known to Metaflow, wherever a flow that imports this runs.

    Metaflow finds others' card types in packages named metaflow_extensions, which would have to be installed
    wherever the flow runs; this is the list to which it adds those.
    """
    from metaflow.plugins import CARDS

    if LineageCard not in CARDS:
        CARDS.append(LineageCard)

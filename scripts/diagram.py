"""Writes the circuit's state diagram into addon/README.md, from the table of legal transitions."""

from __future__ import annotations

from pathlib import Path

from sidestep.breaker.circuit import TRANSITIONS, Circuit, CircuitSettings, State, Trigger

PAGE = Path(__file__).resolve().parents[1] / "addon" / "README.md"
BEGIN = "<!-- made by ./scripts/diagram -->\n```mermaid\n"
END = "```\n<!-- end -->\n"


def diagram() -> str:
    """The state diagram in mermaid's language. What is legal in every state is one arrow."""
    first = Circuit(CircuitSettings(), jitter=lambda: 0.5).state(0.0)
    lines = ["stateDiagram-v2", '    state "any state" as any', f"    [*] --> {first}"]
    for trigger in Trigger:
        arrows: dict[str, State] = {b: after for (b, found), after in TRANSITIONS.items() if found is trigger}
        if len(arrows) == len(State) and len(set(arrows.values())) == 1:
            arrows = {"any": next(iter(arrows.values()))}
        words = trigger.value.replace("_", " ")
        lines += [f"    {before} --> {after}: {words}" for before, after in arrows.items()]
    return "\n".join(lines) + "\n"


def drawn(page: str) -> str:
    """The page with the diagram as it is to be."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise ValueError(f"expected a diagram between {BEGIN!r} and {END!r} in {PAGE.name}, found none")
    return before + BEGIN + diagram() + END + after


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))

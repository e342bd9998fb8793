"""How people write a routing rule: in flags, environment variables, headers, pair files and requests alike.

Owns the notation, "entropy" or "random:rate=0.2,seed=7", and nothing of which rules there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RuleSpec:
    """A rule as somebody asks for it: nothing is checked yet.

    Args:
        name: Of the rule; empty for the server's default.
        parameters: Those that are set.
    """

    name: str = ""
    parameters: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> RuleSpec:
        """Reads "name" or "name:parameter=value,parameter=value".

        Raises:
            ValueError: It isn't written like that.
        """
        name, has_parameters, rest = (piece.strip() for piece in text.partition(":"))
        parameters: dict[str, float] = {}
        for part in rest.split(",") if has_parameters else ():
            key, equals, value = (piece.strip() for piece in part.partition("="))
            try:
                number = float(value)
            except ValueError:
                number = None
            if not (key and equals) or number is None or key in parameters:
                raise ValueError(f"rule: expected NAME or NAME:PARAMETER=NUMBER,… and none twice, got {text!r}")
            parameters[key] = number
        if not name:
            raise ValueError(f"rule: expected the name of a rule, got {text!r}")
        return cls(name, parameters)

    def __str__(self) -> str:
        values = ",".join(f"{key}={repr(value).removesuffix('.0')}" for key, value in self.parameters.items())
        return f"{self.name}:{values}" if values else self.name

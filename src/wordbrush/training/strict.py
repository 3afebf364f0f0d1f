"""What every part of a recipe is: a frozen table whose unknown keys are refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A table of a recipe."""

    # no key of a recipe means anything by infinity or by what is not a number, both of which YAML has: .inf, .nan
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def said(self) -> set[str]:
        """The keys whose values are not the defaults: what a whole dump says as well as the recipe it was made from."""
        fields = type(self).model_fields
        return {
            key
            for key in self.model_fields_set
            if getattr(self, key) != fields[key].get_default(call_default_factory=True)
        }

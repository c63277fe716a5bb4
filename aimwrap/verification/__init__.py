"""Check on the user's own model what AIM guarantees, and measure what it does not.

Guaranteed, and checked (guarantees): features outside a mask move no logit, contributions add up, evaluation is
repeatable, values are finite. Not guaranteed, and measured (survival): that the *pixels* outside the merged mask do not
matter either.
"""

from .findings import Check, Survival, Verification
from .verifying import verify

__all__ = ["Check", "Survival", "Verification", "verify"]

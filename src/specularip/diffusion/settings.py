"""Settings of guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Guidance = Literal["anpg", "cfg"]


@dataclass(frozen=True)
class GuidanceConfig:
    """How the denoiser's answers become one direction."""

    kind: Guidance = "cfg"
    """cfg: classifier-free guidance. anpg: annealed negative prompt guidance, three evaluations a step."""
    scale: float = 4.0
    negative: str = ""
    """What to avoid. Plain CFG pushes away from it as hard as towards the text: "blurry" over-sharpens a
    small prior, and nothing is best. ANPG wants one."""
    null: str = ""
    """The words of ANPG's third branch: none."""
    anpg_switch: int = 170
    """Below this timestep ANPG trusts the null prediction itself."""
    rescale: float = 0.5
    """Pull of the guided estimate's spread back to the unguided one's, against over-saturation (0..1)."""
    identity_weight: float = 1.0
    """Strength of the face tokens in views that see the face."""
    identity_hidden: float = 0.5
    """The same where the face is hidden: the compact prior's face tokens also carry skin and hair."""
    identity_structure: float = 1.0
    """FaceID-PlusV2: weight of what CLIP sees in the face crop beside what insightface recognises."""
    negative_face: str = ""
    """FaceID-PlusV2: photo of somebody else, whose face the negative branch sees; "" for nobody's."""
    guide_identity: bool = False
    """Whether guidance exaggerates the face as it does the words. With a prior whose face tokens carry skin
    tones, that bleaches or darkens the skin."""
    pixel_clip: float = 1.0
    """Largest norm of the gradient of one latent pixel (pixel-wise gradient clipping)."""

"""Settings of guidance. Free of torch, so that presets and the command line load quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from specularip.bounds import Range, Share

Factor = Annotated[float, Range(0.0, 1000.0)]


@dataclass(frozen=True)
class GuidanceConfig:
    """How the denoiser's conditional and unconditional predictions become one direction."""

    kind: Literal["anpg", "cfg"] = "cfg"
    """cfg: classifier-free guidance. anpg: annealed negative prompt guidance, three predictions a step."""
    scale: Factor = 1.0
    """Factor of the difference that the text makes. 1: no guidance, one evaluation instead of two; it is
    enough where only details are at stake, as after sampled views (see `StartConfig`)."""
    negative: str = ""
    """The negative prompt. Plain CFG pushes away from it as hard as towards the text: "blurry" over-sharpens
    a small prior, for which an empty one works best. ANPG needs one."""
    null: str = ""
    """The prompt of ANPG's unconditional branch."""
    anpg_switch: Annotated[int, Range(0, 1000)] = 170
    """Below this timestep ANPG uses the unconditional prediction itself."""
    rescale: Share = 0.0
    """CFG only: how far the guided estimate's standard deviation is pulled back to that of the positive
    prediction, against over-saturation (0..1)."""
    identity_weight: Factor = 1.0
    """Weight of the identity tokens in views that show the face."""
    identity_hidden: Factor = 0.5
    """The same where the face is hidden: the compact prior's identity tokens also carry skin and hair."""
    identity_structure: Factor = 1.0
    """FaceID-PlusV2: weight of CLIP's features of the face crop beside insightface's embedding."""
    negative_face: str = ""
    """FaceID-PlusV2: photo whose face conditions the negative branch; "" for the null face."""
    guide_identity: bool = False
    """Whether guidance amplifies the face as it does the text. With a prior whose identity tokens carry skin
    tones, that bleaches or darkens the skin."""
    pixel_clip: Annotated[float, Range(1e-9, 1e12)] = 1.0
    """Largest norm of the gradient of one latent pixel (pixel-wise gradient clipping)."""

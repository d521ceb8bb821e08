"""The specular branch: ASG lobes at the mirrored view direction, and the head that learns them."""

from .head import Lobes, SpecularConfig, SpecularHead, shading_normals
from .lobes import asg, fibonacci_frames, reflect

__all__ = ["Lobes", "SpecularConfig", "SpecularHead", "asg", "fibonacci_frames", "reflect", "shading_normals"]

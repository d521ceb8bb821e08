"""The similarity between an avatar's world and a capture's: moves, files, and where a subject is found."""

import json
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from avatars import *  # noqa

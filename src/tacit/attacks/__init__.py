"""Adversaries: what malicious nodes do to their rows, and what they send."""

from tacit.attacks.alie import ALIE, OptimalALIE
from tacit.attacks.backdoor import DBA, Backdoor, Columns, Patch, Trigger
from tacit.attacks.base import Attack, DataAttack, UpdateAttack
from tacit.attacks.fang import FangKrum, FangTrim
from tacit.attacks.free_rider import FreeRider
from tacit.attacks.graph import Dissensus, SpectralHeterogeneity
from tacit.attacks.ipm import IPM, OptimalIPM
from tacit.attacks.labels import LabelFlip, Semantic
from tacit.attacks.mimic import Mimic
from tacit.attacks.min_max import MinMax, MinSum
from tacit.attacks.oracle import OracleBoundary
from tacit.attacks.placement import Around, Hubs, Placement, Sybils
from tacit.attacks.rows import Duplicates, NoisyInputs
from tacit.attacks.scaling import ModelReplacement, Scaling
from tacit.attacks.simple import Constant, Gaussian, SignFlip, Zero
from tacit.attacks.view import Secrets, View

__all__ = [
    "ALIE",
    "DBA",
    "IPM",
    "Around",
    "Attack",
    "Backdoor",
    "Columns",
    "Constant",
    "DataAttack",
    "Dissensus",
    "Duplicates",
    "FangKrum",
    "FangTrim",
    "FreeRider",
    "Gaussian",
    "Hubs",
    "LabelFlip",
    "Mimic",
    "MinMax",
    "MinSum",
    "ModelReplacement",
    "NoisyInputs",
    "OptimalALIE",
    "OptimalIPM",
    "OracleBoundary",
    "Patch",
    "Placement",
    "Scaling",
    "Secrets",
    "Semantic",
    "SignFlip",
    "SpectralHeterogeneity",
    "Sybils",
    "Trigger",
    "UpdateAttack",
    "View",
    "Zero",
]

"""Rules by which a receiver combines what it received with what it had."""

from tacit.aggregation.balance import Balance
from tacit.aggregation.before import NNM, Bucketing
from tacit.aggregation.bridge import BRIDGE
from tacit.aggregation.bulyan import Bulyan
from tacit.aggregation.caf import CAF
from tacit.aggregation.centered_clipping import CenteredClipping
from tacit.aggregation.clipping import ARC, StaticClipping
from tacit.aggregation.coordinates import MeaMed, Median, TrimmedMean
from tacit.aggregation.dnc import DnC
from tacit.aggregation.fltrust import FLTrust
from tacit.aggregation.foolsgold import FoolsGold
from tacit.aggregation.foundation import FoundationFL
from tacit.aggregation.geometric_median import GeometricMedian
from tacit.aggregation.krum import Krum, MultiKrum
from tacit.aggregation.mean import Mean
from tacit.aggregation.nna import NNA
from tacit.aggregation.norm_bound import NormBound
from tacit.aggregation.robust_gossip import GTSRG, ClippedGossip, CSPlusRG
from tacit.aggregation.rule import Aggregated, Aggregation, Round
from tacit.aggregation.sign import SignMajority
from tacit.aggregation.sketch_guard import SketchGuard
from tacit.aggregation.step_bound import StepBound
from tacit.aggregation.subsets import MDA, SMEA
from tacit.aggregation.ubar import UBAR
from tacit.aggregation.wfagg import WFAgg

__all__ = [
    "ARC",
    "BRIDGE",
    "CAF",
    "GTSRG",
    "MDA",
    "NNA",
    "NNM",
    "SMEA",
    "UBAR",
    "Aggregated",
    "Aggregation",
    "Balance",
    "Bucketing",
    "Bulyan",
    "CSPlusRG",
    "CenteredClipping",
    "ClippedGossip",
    "DnC",
    "FLTrust",
    "FoolsGold",
    "FoundationFL",
    "GeometricMedian",
    "Krum",
    "MeaMed",
    "Mean",
    "Median",
    "MultiKrum",
    "NormBound",
    "Round",
    "SignMajority",
    "SketchGuard",
    "StaticClipping",
    "StepBound",
    "TrimmedMean",
    "WFAgg",
]

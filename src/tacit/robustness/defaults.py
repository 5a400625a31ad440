"""What an arena tries where nothing else is asked for."""

from collections.abc import Mapping

from tacit import aggregation as rules
from tacit import attacks as lies
from tacit.attacks.backdoor import Columns, Patch, Trigger
from tacit.attacks.base import Attack
from tacit.errors import InputError
from tacit.experiment import Experiment, Topology
from tacit.robustness.cells import Defence
from tacit.topology import Graph, RandomRegular, Star


def attacks(experiment: Experiment) -> Mapping[str, Attack]:
    """Ten attacks: on data, on updates, and two that ask the receivers' own rule."""
    own = experiment.attack or Attack()
    who = (own if isinstance(own, Attack) else own[0]).nodes
    return {
        "label flip": lies.LabelFlip(nodes=who),
        "backdoor": lies.Backdoor(nodes=who, trigger=_trigger(experiment)),
        "sign flip": lies.SignFlip(nodes=who),
        "Gaussian": lies.Gaussian(nodes=who),
        "ALIE": lies.ALIE(nodes=who),
        "Fang trim": lies.FangTrim(nodes=who),
        "Min-Max": lies.MinMax(nodes=who),
        "dissensus": lies.Dissensus(nodes=who),
        "oracle ascent": lies.OracleBoundary(nodes=who, direction="ascent"),
        "oracle common": lies.OracleBoundary(nodes=who, direction="common"),
    }


def _trigger(experiment: Experiment) -> Trigger:
    """A patch where rows are images, the first column where they are not."""
    try:
        Patch().entries(experiment.data.train.x.shape[1:])
    except InputError:
        return Columns()
    return Patch()


def defences() -> Mapping[str, Defence]:
    """Ten defences, f of k inputs tolerated where a rule counts them."""
    return {
        "mean": rules.Mean(),
        "median": rules.Median(),
        "trimmed mean": lambda k, f: rules.TrimmedMean(f=f),
        "Multi-Krum": lambda k, f: rules.MultiKrum(f=f),
        "geometric median": rules.GeometricMedian(),
        "centered clipping": rules.CenteredClipping(),
        "NNM + trimmed mean": lambda k, f: rules.NNM(f=f) | rules.TrimmedMean(f=f),
        "BALANCE": rules.Balance(),
        "CS+-RG": lambda k, f: rules.CSPlusRG(f=f),
        "StepBound": lambda k, f: rules.StepBound(f=f),
    }


def topologies(experiment: Experiment) -> Mapping[str, Topology]:
    """The experiment's own topology, after or before one of the other kind."""
    plan, n = experiment.plan, experiment.data.nodes
    degree = min(15, n // 2)
    graph = plan if isinstance(plan, Graph) else RandomRegular(degree + n * degree % 2)
    star = Star() if plan is None or isinstance(plan, Graph) else plan
    return {type(star).__name__: star, type(graph).__name__: graph}

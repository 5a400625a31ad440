"""The names that users meet: a change here is a change of the interface."""

import subprocess
import sys

import tacit

NAMES = """
ADPSGD ARC Adam AdaptiveClip Alone AsyncSGD Audit BRIDGE Balance Bucketing Bulyan CAF CSPlusRG
CenteredClipping CheckpointError Clip ClippedGossip Complete ContractError CorrelatedNoise Cosine
Custom DPSGD DRIVE DirectedExponential DirectedRing Ditto DivergenceError DnC Epidemic ErdosRenyi
Experiment Exponential FLTrust FedAvg FedBN FedBuff FedDyn FedNova FedOpt FedPer FedProx FedRep
FedSGD FineTune FoolsGold FoundationFL GTSRG GaussianNoise GeometricMedian Gossip Hierarchical
HomomorphicEncryption Hypercube InputError Krum LEARN LaplaceNoise MDA MeaMed Mean Median
MissingDataError MoNNA MultiKrum NNA NNM NormBound NormProof Pairwise Pooled PowerSGD PushSum QSGD
RandomK RandomRegular RandomisedResponse Result Ring SGD SMEA Scaffold SecretSharing
SecureAggregation ServerAdagrad ServerAdam ServerMomentum ServerYogi SignCompression SignMajority
SkellamNoise SketchGuard SmallWorld Star StaticClipping StepBound StepDecay Swarm TacitError
ThresholdEncryption TimeVarying TopK Torus TrimmedMean UBAR VerifiableSum WFAgg arena attacks audit
data models next_token run
"""


def test_the_list_of_public_names():
    assert sorted(dir(tacit)) == sorted(NAMES.split())


def test_every_public_name_is_documented():
    for name in dir(tacit):
        assert getattr(tacit, name).__doc__, name


def test_importing_tacit_imports_nothing_heavy():
    heavy = "torch numpy sklearn polars matplotlib networkx jinja2 rich typer"
    code = f"import sys, tacit; print([m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_using_tacit_adds_little_to_torch():
    heavy = "sklearn polars matplotlib jinja2 rich typer pandas scipy.special scipy.stats"
    code = f"import sys, tacit; tacit.run; print([m for m in {heavy.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

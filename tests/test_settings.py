"""Fields changed by text: what is understood, and how what is not is refused."""

import pytest
from torch.nn.functional import cross_entropy

import tacit
from tacit import settings


@pytest.fixture(scope="module")
def experiment() -> tacit.Experiment:
    return tacit.Experiment(
        data=tacit.data.load("wine"),
        model=lambda: tacit.models.logistic(13, 3),
        loss=cross_entropy,
        training=tacit.SGD(lr=0.5),
    )


@pytest.mark.parametrize(
    ("text", "part", "field", "value"),
    [
        ("rounds=3", None, "rounds", 3),
        (" seed = 7 ", None, "seed", 7),
        ("training.lr=0.05", "training", "lr", 0.05),
        ("training.lr=1e-3", "training", "lr", 0.001),
        ("training.batch_size=None", "training", "batch_size", None),
        ("training.shuffle=False", "training", "shuffle", False),
        ("training.schedule=Cosine(0.1)", "training", "schedule", tacit.Cosine(final=0.1)),
        ("training=Adam(lr=0.1)", None, "training", tacit.Adam(lr=0.1)),
        ("algorithm=Gossip", None, "algorithm", tacit.Gossip()),
        ("algorithm=Gossip(mix='before')", None, "algorithm", tacit.Gossip(mix="before")),
        ("algorithm=Gossip(mix=before)", None, "algorithm", tacit.Gossip(mix="before")),
        ("algorithm.uniform=True", "algorithm", "uniform", True),
        ("topology=Ring", None, "topology", tacit.Ring()),
        ("topology=RandomRegular(4)", None, "topology", tacit.RandomRegular(degree=4)),
        (
            "topology=TimeVarying((Ring, Torus()))",
            None,
            "topology",
            tacit.TimeVarying((tacit.Ring(), tacit.Torus())),
        ),
        ("topology.sampling=with-replacement", "topology", "sampling", "with-replacement"),
        ("aggregation=Mean()", None, "aggregation", tacit.Mean()),
        ("aggregation=Krum(f=2)", None, "aggregation", tacit.aggregation.Krum(f=2)),
        (
            "aggregation=NNM(f=2) | Krum(2)",
            None,
            "aggregation",
            tacit.aggregation.NNM(f=2) | tacit.aggregation.Krum(f=2),
        ),
        ("aggregation=Balance", None, "aggregation", tacit.aggregation.Balance()),
        ("attack=ALIE(nodes=0.2)", None, "attack", tacit.attacks.ALIE(nodes=0.2)),
        ("attack=ALIE(nodes=['0', '1'])", None, "attack", tacit.attacks.ALIE(nodes=("0", "1"))),
        ("attack=None", None, "attack", None),
        (
            "attack=(ALIE, Backdoor(target=1))",
            None,
            "attack",
            (tacit.attacks.ALIE(), tacit.attacks.Backdoor(target=1)),
        ),
    ],
)
def test_fields_and_parts(
    experiment: tacit.Experiment, text: str, part: str | None, field: str, value: object
) -> None:
    changed = settings.apply(experiment, [text])
    assert getattr(getattr(changed, part) if part else changed, field) == value


def test_later_settings_see_earlier_ones(experiment: tacit.Experiment) -> None:
    changed = settings.apply(experiment, ["algorithm=FedProx(mu=0.1)", "algorithm.mu=0.2"])
    assert changed.algorithm == tacit.FedProx(mu=0.2)
    assert experiment.algorithm == tacit.FedAvg()


def test_the_usual_topology_has_fields_before_it_is_given(experiment: tacit.Experiment) -> None:
    assert experiment.topology is None
    assert settings.apply(experiment, ["topology.cohort=2"]).topology == tacit.Star(cohort=2)


def test_a_whole_number_for_a_decimal_field_is_the_same_experiment(
    experiment: tacit.Experiment,
) -> None:
    whole, decimal = (settings.apply(experiment, [f"training.lr={lr}"]) for lr in ("1", "1.0"))
    assert whole.digest() == decimal.digest()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rounds", "--set: 'rounds' was given; allowed is FIELD=VALUE, such as training.lr=0.05"),
        ("rounds=3.5", "rounds: 3.5 was given; allowed is a whole number"),
        ("rounds=True", "rounds: True was given; allowed is a whole number"),
        ("rounds=0", "rounds: 0 was given; allowed is a whole number, 1 or more"),
        ("seed=", "seed: '' was given; allowed is a whole number"),
        ("training.lr=abc", "training.lr: 'abc' was given; allowed is a number"),
        ("training.lr=-1", "training.lr: -1.0 was given; allowed is any number above 0"),
        ("training.epochs=x", "training.epochs: 'x' was given; allowed is a whole number or None"),
        ("training.nesterov=yes", "'yes' was given; allowed is True or False"),
        ("training.schedule=Mean", "Mean() was given; allowed is Cosine, StepDecay or None"),
        ("training.learning_rate=1", "training.learning_rate: unknown; did you mean training.lr?"),
        ("training.batchsize=4", "did you mean training.batch_size? Known are training.lr, "),
        ("lr=3", "lr: unknown; did you mean training.lr? Known are training, algorithm, "),
        ("rond=3", "rond: unknown; did you mean rounds?"),
        ("rounds.x=3", "rounds.x: rounds is 10 and has no fields"),
        ("model=3", "model: it can be changed in the experiment's file alone"),
        ("data.name=x", "data.name: it can be changed in the experiment's file alone"),
        ("algorithm=Gosip", "; did you mean Gossip?"),
        ("algorithm=Ring", "algorithm: Ring() was given; allowed is "),
        ("algorithm=FedProx(nu=1)", "algorithm: FedProx is given as FedProx(mu=0.01, uniform="),
        ("algorithm=FedProx(mu=x)", "algorithm.mu: 'x' was given; allowed is a number"),
        ("topology=RandomRegular", "topology: RandomRegular is given as RandomRegular(degree=...)"),
        ("topology=RandomRegular(1, 2)", "is given as RandomRegular(degree=...)"),
        ("aggregation=Cosine", "aggregation: Cosine(final=0.0) was given; allowed is "),
        (
            "aggregation=Krum(2) | NNM(2)",
            "Krum(f=2) | NNM(f=2) was given; allowed left of | is a pre",
        ),
        ("aggregation=NNM(2)", "aggregation: NNM(f=2) was given; allowed is "),
        ("aggregation=Ring | Krum(2)", "aggregation: 'Ring | Krum(2)' was given; allowed is "),
        ("attack=ALI", "attack: 'ALI' was given; allowed is "),
        ("attack=A", "attack: 'A' was given; allowed is ALIE, DBA, IPM, Backdoor, Constant, Diss"),
        ("attack=Attack", "attack: 'Attack' was given; allowed is "),
        ("attack=UpdateAttack()", "attack: 'UpdateAttack()' was given; allowed is "),
        (
            "attack=Backdoor(trigger=P)",
            "attack.trigger: 'P' was given; allowed is Columns or Patch",
        ),
        ("attack=ALIE(knowledge='x')", "'x' was given; allowed is colluders, all or defence"),
        ("attack=Krum(2)", "attack: Krum(f=2) was given; allowed is "),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(
    experiment: tacit.Experiment, text: str, sentence: str
) -> None:
    with pytest.raises(tacit.InputError) as error:
        settings.apply(experiment, [text])
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "value",
    ["__import__('os').abort()", "(lambda: 1/0)()", "[print(i) for i in (1,)]", "Gossip(**{})"],
)
def test_nothing_is_evaluated(experiment: tacit.Experiment, value: str) -> None:
    with pytest.raises(tacit.InputError, match="algorithm"):
        settings.apply(experiment, [f"algorithm={value}"])


def test_partitions_by_name() -> None:
    assert settings.partition("Dirichlet(0.5)") == tacit.data.Dirichlet(0.5)
    assert settings.partition("ByKey(hospital)") == tacit.data.ByKey("hospital")
    with pytest.raises(tacit.InputError, match=r"allowed is .*IID.*; did you mean Dirichlet\?"):
        settings.partition("Dirichelt(0.5)")

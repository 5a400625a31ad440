"""What cannot work is refused before anything runs, with one sentence."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

import tacit
from small import experiment, federation
from tacit.attacks import ALIE, Semantic
from tacit.data.federation import Split


def refused(message: str, **changes):
    """Neither construction nor check may let this pass, and nothing may have run."""
    with pytest.raises(tacit.InputError, match=message) as error:
        tacit.run(experiment(**changes), on_round=lambda row: pytest.fail("a round ran"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "rounds: 0 was given; allowed is a whole number, 1 or more"),
        ({"rounds": 2.5}, "rounds: 2.5 was given"),
        ({"rounds": True}, "rounds: True was given"),
        ({"attack": ALIE}, r"attack: <class .* one of tacit.attacks such as ALIE\(\), or a list"),
        ({"attack": [ALIE(), "alie"]}, r"attack: \[.* or a list of them"),
        ({"evaluate_every": 0}, "evaluate_every: 0 was given"),
        ({"training": "sgd"}, "training: 'sgd' was given"),
        ({"algorithm": "fedavg"}, "algorithm: 'fedavg' was given"),
        ({"topology": "ring"}, "topology: 'ring' was given"),
        ({"loss": None}, "loss: None was given; allowed is a function"),
        ({"model": 3}, "model: 3 was given; allowed is a function"),
        ({"data": [1, 2]}, r"data: \[1, 2\] was given"),
        ({"protection": ["noise"]}, "protection: 'noise' was given; allowed are Clip"),
        ({"topology": tacit.Ring()}, "FedAvg needs a server; use Star"),
        ({"algorithm": tacit.Gossip(), "topology": tacit.Star()}, "Gossip works without a server"),
        ({"algorithm": tacit.Gossip(), "topology": tacit.DirectedRing()}, "use PushSum"),
        ({"algorithm": tacit.PushSum(), "aggregation": tacit.Median()}, "PushSum needs Mean"),
        ({"attack": 3}, "attack: 3 was given; allowed is None, one of tacit.attacks"),
        ({"aggregation": max}, "aggregation: .* allowed is a rule such as Mean"),
        ({"aggregation": tacit.StepBound(f=1)}, "own training step, and a server takes none"),
    ],
)
def test_fields_that_do_not_fit(changes, message):
    refused(message, **changes)


@pytest.mark.parametrize(
    ("cohort", "message"),
    [(-1, "topology.cohort: -1 was given"), (6, "topology.cohort: 6 .* allowed is 1 to 5")],
)
def test_cohorts_that_cannot_be_filled(cohort, message):
    with pytest.raises(tacit.InputError, match=message):
        tacit.run(experiment(topology=tacit.Star(cohort=cohort)))


@pytest.mark.parametrize(
    ("plan", "fewest"),
    [
        (tacit.Star(), 5),
        (tacit.Star(cohort=3), 3),
        # Groups of 3 and 2 nodes, and 2 aggregates above them.
        (tacit.Hierarchical(groups=2), 2),
        # Groups of 2, 2 and 1 nodes.
        (tacit.Hierarchical(groups=3), 1),
        (tacit.Complete(), 4),
        # Of four rounds, two are a ring.
        (tacit.TimeVarying((tacit.Complete(), tacit.Ring())), 2),
        # A node that hears nobody aggregates nothing.
        (tacit.Pairwise(), 1),
    ],
    ids=repr,
)
def test_the_fewest_vectors_that_any_receiver_gets(plan, fewest):
    graph = isinstance(plan, tacit.topology.Graph)
    algorithm = tacit.Gossip() if graph else tacit.FedAvg()
    assert experiment(topology=plan, algorithm=algorithm).inputs == fewest


def test_the_fewest_of_cohorts_of_random_size():
    plan = experiment(topology=tacit.Star(cohort=2, sampling="poisson"), rounds=30)
    sizes = [row["cohort"] for row in tacit.run(plan).metrics]
    assert min(sizes) == 0
    assert plan.inputs == min(size for size in sizes if size)
    assert experiment(algorithm=tacit.Alone()).inputs == 0


def test_a_rule_with_too_few_inputs_in_a_later_round():
    turns = tacit.TimeVarying((tacit.Complete(), tacit.Ring()))
    plan = {"algorithm": tacit.Gossip(), "topology": turns, "aggregation": tacit.Krum(f=0)}
    tacit.run(experiment(**plan, rounds=1))
    refused("needs 3 or more inputs, but a receiver has 2 neighbours", **plan, rounds=2)


@pytest.mark.parametrize(
    ("algorithm", "rule", "sends"),
    [
        (tacit.Scaffold(), tacit.FoolsGold(), "Scaffold sends model, control in turn"),
        (tacit.LEARN(), tacit.UBAR(), "LEARN sends gradient, model in turn"),
        (tacit.MoNNA(mixes=2), tacit.FLTrust(), "MoNNA sends model, model after mix 1 in turn"),
    ],
    ids=repr,
)
def test_a_rule_that_looks_at_models_where_something_else_is_sent(algorithm, rule, sends):
    graph = {"topology": tacit.Complete()} if algorithm.exchanges == "peers" else {}
    refused(sends, algorithm=algorithm, aggregation=rule, **graph)
    experiment(algorithm=algorithm, aggregation=tacit.Median(), **graph).check()


def test_a_disconnected_graph():
    import networkx as nx

    parts = nx.Graph([(0, 1), (2, 3), (3, 4)])
    refused("5 nodes in 2 parts", algorithm=tacit.Gossip(), topology=tacit.Custom(parts))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.Linear(5, 2), r"inputs of shape \(3, 4\)"),
        (lambda: nn.Linear(4, 1), r"output of shape \(3, 1\) and targets of shape \(3,\)"),
        (
            lambda: nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (2, 2))),
            r"output of shape \(3, 2, 2\) and targets of shape \(3,\)",
        ),
        (lambda: nn.Flatten(), "no parameter that requires a gradient"),
    ],
)
def test_a_model_that_does_not_fit(model, message):
    refused(message, model=model)


def test_too_few_outputs_for_the_classes():
    data = federation()
    data.train.y[0] = 2
    wide = tacit.data.Federation(data.train, data.test, data.names, data.task, 3)
    refused("but there are 3 classes", data=wide)


def test_a_regression_output_of_another_shape():
    data = federation()
    train, test = (Split(s.x, s.x[:, :1].clone(), s.offsets) for s in (data.train, data.test))
    values = tacit.data.Federation(train, test, data.names, "regression", 0)
    flat = lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))  # noqa: E731
    refused("in regression they must be equal", data=values, model=flat, loss=nn.MSELoss())


def test_a_loss_per_row():
    rows = functools.partial(nn.functional.cross_entropy, reduction="none")
    refused(r"loss: it returns \(3,\); allowed is one number", loss=rows)


def test_labels_out_of_range_and_values_that_are_not_finite():
    data = federation()
    data.train.y[3] = 7
    data.train.x[25, 1] = torch.nan
    with pytest.raises(tacit.ContractError) as error:
        tacit.run(experiment(data=data))
    assert len(error.value.differences) == 2
    assert "node 'a'" in str(error.value)
    assert "node 'b'" in str(error.value)


def test_an_empty_federation():
    with pytest.raises(tacit.InputError, match="the federation is empty"):
        tacit.data.from_arrays([])
    with pytest.raises(tacit.InputError, match="the federation is empty"):
        tacit.data.from_arrays([(np.zeros((0, 3)), np.zeros(0, dtype=int))])


def test_an_engine_that_does_not_exist():
    with pytest.raises(tacit.InputError, match="engine: 'ray' was given"):
        tacit.run(experiment(), engine="ray")


def test_the_digest_is_that_of_the_content():
    base = experiment()
    assert base.digest() == experiment().digest()
    shifted = federation()
    shifted.train.x[0, 0] += 1e-3
    others = [
        base.replace(seed=1),
        base.replace(rounds=5),
        base.replace(training=tacit.SGD(lr=0.2, batch_size=8)),
        base.replace(algorithm=tacit.FedAvg(uniform=True)),
        base.replace(topology=tacit.Star(cohort=3)),
        base.replace(loss=nn.functional.nll_loss),
        base.replace(model=lambda: nn.Linear(4, 2)),
        base.replace(data=shifted),
    ]
    assert len({other.digest() for other in [base, *others]}) == 9


def test_the_digest_does_not_depend_on_where_things_lie_in_memory():
    def smooth():
        return functools.partial(nn.functional.cross_entropy, label_smoothing=0.1)

    # Two losses of the same name are told apart by what they compute.
    one = experiment(loss=lambda output, target: (output - target).sum())
    two = experiment(loss=lambda output, target: (output - target).mean())
    assert one.digest() != two.digest()

    first, second = (experiment(loss=smooth()) for _ in range(2))
    assert first.digest() == second.digest()
    assert first.digest() != experiment(loss=smooth(), aggregation=tacit.Median()).digest()


def digest_of(rows) -> str:
    return experiment(attack=Semantic(rows=rows, target=0)).digest()


def test_functions_count_with_what_they_have_captured():
    def captured(k):
        return lambda x, y: y == k

    def default(k):
        return lambda x, y, k=k: y == k

    def keyword(k):
        def rows(x, y, *, k=k):
            return y == k

        return rows

    def within(k):
        inner = captured(k)
        return lambda x, y: inner(x, y)

    def array(k):
        labels = np.array([k])
        return lambda x, y: y == labels[0]

    def itself(k):
        def rows(x, y):
            return rows(x, y[:0]) if k > 9 else y == np.int64(k)

        return rows

    for make in (captured, default, keyword, within, array, itself):
        assert digest_of(make(1)) == digest_of(make(1)) != digest_of(make(7))


class Rows:
    """An object that is a function; in a circle, and with a module and tensors in it."""

    def __init__(self, k):
        self.k, self.table, self.home, self.me = k, {"t": torch.tensor([k])}, np, self

    def __call__(self, x, y):
        return y == self.k

    def method(self, x, y):
        return y == self.k

    @functools.cached_property
    def found(self):
        return 1


def test_objects_and_methods_count_with_their_attributes():
    assert digest_of(Rows(1)) == digest_of(Rows(1)) != digest_of(Rows(7))
    assert digest_of(Rows(1).method) == digest_of(Rows(1).method) != digest_of(Rows(7).method)
    used = Rows(1)
    assert used.found
    assert digest_of(used) == digest_of(Rows(1))


@pytest.mark.parametrize("rule", [tacit.FLTrust, lambda root: tacit.NNM(1) | tacit.FLTrust(root)])
def test_root_rows_are_taken_as_the_data_are(rule):
    x, y = federation().train.node(0)
    plain = tacit.run(experiment(aggregation=rule((x, y)), rounds=2)).model
    found = tacit.run(experiment(aggregation=rule((x.double().numpy(), y.int().numpy())), rounds=2))
    for one, other in zip(plain.parameters(), found.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:, :3], y), r"aggregation.root, x: a row's shape is \(3,\)"),
        (lambda x, y: (x, y + 2), "aggregation.root, labels: .* outside 0 to 1"),
        (lambda x, y: (x, y + 0.5), "aggregation.root, labels: .* not whole"),
        (lambda x, y: (x, y.unsqueeze(1)), r"aggregation.root, labels: a row's shape is \(1,\)"),
        (lambda x, y: (x * torch.nan, y), "aggregation.root, column 0: 20 values are not finite"),
        (lambda x, y: (x.double() * 1e300, y), "aggregation.root, column 0: .* not finite"),
    ],
)
def test_root_rows_that_do_not_fit_the_data(change, message):
    root = change(*federation().train.node(0))
    refused(message, aggregation=tacit.FLTrust(root))
    refused(message, aggregation=tacit.NNM(1) | tacit.FLTrust(root))


def test_a_rule_behind_another_lacks_root_rows():
    rule = tacit.NNM(1) | tacit.FLTrust()
    refused(r"aggregation.root: NNM\(f=1\) \| FLTrust\(\) .* give FLTrust", aggregation=rule)


def test_a_module_may_stand_for_the_function_and_is_not_changed():
    module = nn.Linear(4, 2)
    before = module.weight.clone()
    tacit.run(experiment(model=module, rounds=2))
    assert torch.equal(module.weight, before)


def written(text: str, name: str):
    """What a program that is no file defines, as at a prompt."""
    names = {"nn": nn, "F": nn.functional, "torch": torch}
    exec(text, names)
    return names[name]


def test_the_digest_knows_functions_written_at_a_prompt():
    # A ledger counts two experiments of one digest as one.
    plain, halved = (
        written(f"def loss(o, y):\n    return {half} * F.cross_entropy(o, y)", "loss")
        for half in ("1.0", "0.5")
    )
    assert experiment(loss=plain).digest() == experiment(loss=plain).digest()
    assert experiment(loss=plain).digest() != experiment(loss=halved).digest()


def test_the_digest_knows_what_a_function_calls():
    text = """def scaled(x):
    return {} * x
def loss(o, y):
    return scaled(F.cross_entropy(o, y))"""
    plain, halved = (written(text.format(half), "loss") for half in ("1.0", "0.5"))
    assert experiment(loss=plain).digest() != experiment(loss=halved).digest()


def test_the_digest_knows_how_a_model_computes():
    text = """class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)
    def forward(self, x):
        return torch.{}(self.layer(x))"""
    one, two = (written(text.format(word), "Net") for word in ("tanh", "sigmoid"))
    assert experiment(model=one).digest() == experiment(model=one).digest()
    assert experiment(model=one).digest() != experiment(model=two).digest()

"""Compressed updates among real machines: the model of one process, in fewer bytes."""

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

import tacit
from tacit.compression import DRIVE, QSGD, PowerSGD, RandomK, SignCompression, TopK
from tacit.errors import MessageError
from tacit.network.blobs import Offer
from tacit.network.protocol import Deliver
from tacit.network.tensors import HEADER
from test_network_hostile import Rogue
from test_network_rounds import HALF, NOISE, experiment, in_parts
from test_network_run import Bench, model
from test_network_sums import MASKS, Masked

COMPRESSIONS = {
    "topk": TopK(0.1), "bitmap": TopK(0.5), "randomk": RandomK(0.2), "qsgd": QSGD(),
    "unbiased": RandomK(0.5, feedback=False), "sign": SignCompression(), "drive": DRIVE(),
    "powersgd": PowerSGD(1),
}  # fmt: skip


def normed():
    """With buffers, and without numbers of one size, of which rounding would choose the largest.

    The two rows of a layer before two classes have opposite gradients; a bias before a norm has
    none but rounding.
    """
    return nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.Linear(6, 3))


def wide(width=400):
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))


def whole(plan):
    return plan.layout.vector(tacit.run(plan).model)


@pytest.mark.parametrize("compression", COMPRESSIONS.values(), ids=COMPRESSIONS)
def test_every_compression_learns_the_same_in_parts(compression):
    plan = experiment(compression=compression, model=normed)
    server, _ = in_parts(plan)
    assert torch.allclose(server.shared["model"], whole(plan), atol=1e-5)


PLANS = {
    "cohort": {"compression": TopK(0.2), "topology": tacit.Star(cohort=2)},
    "median": {"compression": QSGD(), "aggregation": tacit.Median()},
    "clip": {"compression": TopK(0.2), "protection": [tacit.Clip(0.05)]},
    "clip in places": {"compression": RandomK(0.2), "protection": [tacit.Clip(0.05)]},
}


@pytest.mark.parametrize("changes", PLANS.values(), ids=PLANS)
def test_compression_goes_with_every_plan(changes):
    plan = experiment(model=normed, **changes)
    server, _ = in_parts(plan)
    assert torch.allclose(server.shared["model"], whole(plan), atol=1e-5)


@pytest.mark.parametrize("where", ["local", "central"])
def test_noise_is_on_the_coordinates_that_are_sent(where):
    plan = experiment(
        compression=RandomK(0.25, feedback=False), rounds=1,
        protection=[HALF, tacit.GaussianNoise(**NOISE, where=where)],
    )  # fmt: skip
    server, sites = in_parts(plan)
    changed = (server.shared["model"] != plan.start()).nonzero().flatten()
    # A quarter of the 44; the noise of none of them is zero.
    assert sorted(sites[0].wire.uplink(0).coordinates.tolist()) == changed.tolist()
    assert len(changed) == 11


class Counted(Bench):
    """Sums up what the coordinator pulls."""

    pulled = 0

    def pull(self, site, offer, path):
        self.pulled += offer.size
        super().pull(site, offer, path)


@pytest.mark.parametrize(
    ("compression", "share"),
    # Of 32 bits a number: one number in twenty at 32 + 12 bits; one bit; one number in twenty.
    [(TopK(0.05), 0.08), (SignCompression(), 1 / 32), (RandomK(0.05), 0.05)],
    ids=["topk", "sign", "randomk"],
)
def test_the_run_gives_the_model_of_one_process_in_fewer_bytes(compression, share, tmp_path):
    plan = experiment(compression=compression, model=wide)
    bench = Counted(plan, tmp_path, patience=60)
    kept = bench.all()
    assert kept.outcome == "finished", kept.reason
    assert torch.allclose(model(plan, kept, bench.store), whole(plan), atol=1e-5)
    updates = plan.rounds * plan.data.nodes
    assert bench.pulled < updates * (share * 4 * plan.layout.size + 200)  # 200: safetensors' header


@pytest.mark.parametrize("after", [0, 1])
def test_a_site_that_was_killed_keeps_its_memory(after, tmp_path):
    plan = experiment(compression=TopK(0.1), model=normed)
    names, killed = plan.data.names, []

    class Killing(Counted):
        """A site is started anew before it trains in the second round, and after it."""

        def site(self, name, **options):
            made = super().site(name, **options)
            if name != names[1] or killed:
                return made
            train = made._train

            def dies(*order):
                if order[1].round == 1 and not killed:
                    killed.append(name)
                    if after:
                        train(*order)
                    raise Killed
                return train(*order)

            made._train = dies
            run = made.run

            def again():
                try:
                    return run()
                except Killed:
                    return self.site(name).run()

            made.run = again
            return made

    bench = Killing(plan, tmp_path, patience=60, grace=60)
    kept = bench.all()
    assert kept.outcome == "finished", kept.reason
    assert killed
    assert torch.allclose(model(plan, kept, bench.store), whole(plan), atol=1e-5)


class Killed(BaseException):
    """A site's process is gone."""


def test_a_lost_site_is_left_out(tmp_path):
    plan = experiment(compression=TopK(0.2), model=normed)
    gone = plan.data.names[2]

    class Losing(Bench):
        def ask(self, name, request):
            if name == gone and isinstance(request, Deliver) and request.round == 1:
                self.coordinator.here(name, False)
                raise Killed
            return super().ask(name, request)

        def site(self, name, **options):
            made = super().site(name, **options)
            run = made.run

            def until_killed():
                try:
                    return run()
                except Killed:
                    return None

            made.run = until_killed
            return made

    bench = Losing(plan, tmp_path, patience=60, grace=0.05)
    kept = bench.all()
    assert kept.outcome == "finished", kept.reason
    server, _ = in_parts(plan, lost=lambda round: (2,) if round else ())
    assert torch.allclose(model(plan, kept, bench.store), server.shared["model"], atol=1e-5)


@pytest.mark.parametrize("feedback", [True, False], ids=["feedback", "unbiased"])
def test_random_coordinates_go_behind_masks(feedback, tmp_path):
    plan = experiment(compression=RandomK(0.3, feedback=feedback), protection=[HALF, *MASKS])
    bench = Masked(plan, tmp_path)
    kept = bench.all()
    assert kept.outcome == "finished", kept.reason
    assert torch.equal(model(plan, kept, bench.store), whole(plan))


# 44 numbers, of which four are sent: four indices of six bits (1, 2, 3, 4), and four numbers.
PLACES = bytes([0b000001_00, 0b0010_0000, 0b11_000100])
VALUES = np.full(4, 0.5, "<f4").tobytes()


def saved(message):
    return save({"0": torch.frombuffer(bytearray(message), dtype=torch.uint8)})


LIES = {
    "positions out of range": saved(bytes([255, 255, 255]) + VALUES),
    "a position twice": saved(bytes(3) + VALUES),
    "falling positions": saved(bytes([0b000100_00, 0b0011_0000, 0b10_000001]) + VALUES),
    "NaN": saved(PLACES + np.full(4, np.nan, "<f4").tobytes()),
    "too few": saved(PLACES + VALUES[:-4]),
    "too many": saved(PLACES + VALUES + bytes(4)),
    "not compressed": save({"0": torch.zeros(44)}),
    "numbers": save({"0": torch.zeros(19)}),
    "one more": save({"0": torch.zeros(19, dtype=torch.uint8), "1": torch.zeros(1)}),
}


@pytest.fixture
def rogue(tmp_path):
    made = Rogue(tmp_path, experiment(compression=TopK(0.1)), patience=60)
    yield made
    made.stop()


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_message_that_is_none_is_left_out_and_its_sender_named(lie, rogue, caplog):
    rogue.deliver(lie)
    assert rogue.name in rogue.coordinator.intake.declined
    assert repr(rogue.name) in caplog.text
    assert not rogue.store.accepted(0)


def test_a_message_is_taken_and_nothing_larger_is_pulled(rogue):
    with pytest.raises(MessageError, match=rogue.name):  # of 44 float32 and more
        rogue.ask(rogue.name, Deliver(rogue.digest, 0, Offer(bytes(32), HEADER + 20), 0.1))
    assert not rogue.coordinator.intake.pulling
    rogue.deliver(saved(PLACES + VALUES))
    assert set(rogue.store.accepted(0)) == {rogue.name}

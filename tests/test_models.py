import pytest
import torch

from tacit import models
from tacit.errors import InputError

# Each model, its inputs, the shape of its outputs, and how many parameters it has.
CASES = {
    # 30*2 + 2
    "logistic": (lambda: models.logistic(30, 2), torch.randn(4, 30), (4, 2), 62),
    # 30*64 + 64, 64*2 + 2
    "mlp": (lambda: models.mlp(30, 64, 2), torch.randn(4, 30), (4, 2), 2_114),
    # 784*200 + 200, 200*200 + 200, 200*10 + 10; as in McMahan 2017
    "two_nn": (models.two_nn, torch.randn(4, 1, 28, 28), (4, 10), 199_210),
    # 1*32*25 + 32, 32*64*25 + 64, 3136*512 + 512, 512*10 + 10; as in McMahan 2017
    "cnn": (models.cnn, torch.randn(4, 1, 28, 28), (4, 10), 1_663_370),
    # embedding 65*8; per LSTM layer 4 gates of (inputs + 256)*256 weights and two biases:
    # 4*(8 + 256)*256 + 8*256 and 4*(256 + 256)*256 + 8*256; head 256*65 + 65
    "char_lstm": (models.char_lstm, torch.randint(65, (4, 80)), (4, 80, 65), 815_945),
    # tokens 65*128, positions 80*128; twice (norms 2*256, query, key, value and out 4*(128*128 +
    # 128), perceptron 128*512 + 512 + 512*128 + 128); norm 256; head 128*65 + 65
    "transformer": (models.transformer, torch.randint(65, (4, 80)), (4, 80, 65), 423_745),
}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", CASES)
def test_parameters_and_output_shape(name):
    make, x, shape, parameters = CASES[name]
    module = make()
    assert sum(p.numel() for p in module.parameters()) == parameters
    assert module(x).shape == shape


@pytest.mark.parametrize("name", CASES)
def test_a_trace_computes_the_same_for_any_batch(name):
    make, x, _, _ = CASES[name]
    module = make()
    traced = torch.fx.symbolic_trace(module)
    for batch in (x, x[:1]):
        torch.testing.assert_close(traced(batch), module(batch))


@pytest.mark.parametrize("name", ["char_lstm", "transformer"])
def test_no_position_sees_a_later_token(name):
    module = CASES[name][0]()
    tokens = torch.randint(65, (2, 12))
    changed = tokens.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 65
    difference = (module(tokens) - module(changed)).abs().amax(dim=(0, 2))
    assert (difference[:7] < 1e-5).all()
    assert (difference[7:] > 1e-5).all()


def test_transformer_attention_is_multi_head_attention():
    block = models.transformer(width=16, heads=4, layers=1).blocks[0]
    reference = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    projections = (block.query, block.key, block.value)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([part.weight for part in projections]))
        reference.in_proj_bias.copy_(torch.cat([part.bias for part in projections]))
        reference.out_proj.load_state_dict(block.out.state_dict())
        x = torch.randn(3, 6, 16)
        normed = block.attention_norm(x)
        later = torch.ones(6, 6, dtype=torch.bool).triu(1)
        mixed, _ = reference(normed, normed, normed, attn_mask=later, need_weights=False)
        torch.testing.assert_close(block(x), x + mixed + block.mlp(x + mixed))


def test_transformer_knows_where_a_token_stands():
    # Attention over equal tokens is the same at every position but for the learned positions.
    logits = models.transformer()(torch.full((1, 5), 7))[0]
    assert torch.pdist(logits).min() > 0.1


def test_images_and_flat_rows_give_the_same():
    module, x = models.two_nn(), torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(module(x), module(x.flatten(1)))


@pytest.mark.parametrize("sizes", [(), (30,), (30, 0, 2)])
def test_mlp_refuses_sizes_that_make_no_layer(sizes):
    with pytest.raises(InputError, match=r"sizes: .* was given; give two or more positive"):
        models.mlp(*sizes)


def test_transformer_refuses_heads_that_do_not_divide_its_width():
    with pytest.raises(InputError, match="heads: 3 was given; give a divisor of the width 128"):
        models.transformer(heads=3)

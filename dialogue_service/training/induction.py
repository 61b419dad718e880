"""A new model that can copy before it has learned anything.

To repeat a name that it has never seen, a model needs an induction head: a head that looks for the present
token earlier in the conversation and attends to what came after it (Olsson et al. 2022, "In-context Learning
and Induction Heads"). It takes two layers: a head of the first one tells each position which token came
before, one of the second layer looks that up. Gradient descent finds the pair late, after more steps than a
small model on a processor is given. But the pair is known, so it is written into the random weights, as
Trockman and Kolter (2023, "Mimetic Initialization of Self-Attention Layers") do with other structures.
Training then only has to keep it, and to learn when to use it.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dialogue_service.training.model import ModelError

_ATTEND = 6.0
"""Size of the constant queries and keys of the first head."""
_FAST = 8
"""How many of the fastest frequencies say which position is the one before."""
_MATCH = 2.0
"""How sharply the second head tells tokens apart."""
_QUIET = 0.1
"""What is left of the other parts' outputs: else their noise is louder than the tokens."""
_BEFORE = 0.06
_COPIED = 0.6


@torch.no_grad()
def plant(model: PreTrainedModel) -> None:
    """Write the two heads over the first heads of the first two layers, in place.

    The model is one of rotary positions, with biases in its attention and as many key as query heads, such
    as Llama with `attention_bias`. Raises `ModelError` for others.
    """
    config = model.config
    try:
        layers = model.model.layers
        first, second = layers[0].self_attn, layers[1].self_attn
        size: int = first.head_dim
        frequencies: Tensor = model.model.rotary_emb.inv_freq
        biases = first.q_proj.bias, first.k_proj.bias
    except (AttributeError, IndexError) as error:
        raise ModelError(f"{type(model).__name__} of these sizes has no place for induction heads") from error
    fits = config.hidden_size >= 2 * size and config.num_key_value_heads == config.num_attention_heads
    if not fits or None in biases:
        raise ModelError("induction heads need attention_bias, two heads or more, and a key head for each")
    for layer in layers:
        layer.self_attn.o_proj.weight *= _QUIET
        layer.mlp.down_proj.weight *= _QUIET
    half = size // 2
    slow = [*range(half // 2, half), *range(half + half // 2, size)]
    basis = torch.linalg.qr(torch.randn(config.hidden_size, config.hidden_size))[0]
    token, before = torch.zeros(2, size, config.hidden_size)
    # The rotation must not blur what is compared over a distance: only its slow half carries tokens.
    token[slow], before[slow] = basis[: len(slow)], basis[len(slow) : 2 * len(slow)]

    # Constant queries and keys: what is left is the rotation, and its phase makes one position back the best.
    fast = torch.arange(min(_FAST, half))
    first.q_proj.weight[:size], first.k_proj.weight[:size] = 0, 0
    first.q_proj.bias[:size], first.k_proj.bias[:size] = 0, 0
    first.q_proj.bias[fast] = _ATTEND
    first.k_proj.bias[fast] = _ATTEND * frequencies[fast].cos()
    first.k_proj.bias[half + fast] = _ATTEND * frequencies[fast].sin()
    first.v_proj.weight[:size] = token
    first.o_proj.weight[:, :size] = before.T * _BEFORE

    second.q_proj.weight[:size], second.k_proj.weight[:size] = token * _MATCH, before * _MATCH
    copied = basis[2 * len(slow) : 2 * len(slow) + size]
    second.v_proj.weight[: len(copied)] = copied
    second.o_proj.weight[:, : len(copied)] = copied.T * _COPIED

"""Tokenizers of classifiers: special tokens in a text are text, and every model has a length."""

from pathlib import Path

from transformers import AutoConfig, PreTrainedTokenizerBase

from shared import checkpoint

_UNSET = 1_000_000  # a tokenizer that was given no length says something beyond this


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of `folder` so that special tokens in a text are nothing but text.

    The frame it puts around a text ([CLS] ... [SEP]) is not affected.
    """
    tokenizer: PreTrainedTokenizerBase = checkpoint.load_tokenizer(folder, split_special_tokens=True)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    positions = getattr(config, "max_position_embeddings", 0)
    if tokenizer.model_max_length > _UNSET and positions:
        # Two fewer than there are: RoBERTa and its kin begin to count at 2.
        tokenizer.model_max_length = positions - 2
    return tokenizer

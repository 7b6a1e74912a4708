"""Small models of Hugging Face's transformers, made from their configurations.

Sizes are such that each is measured in seconds; nothing is downloaded. Half of them compute
attention by ``scaled_dot_product_attention`` and half in its parts (``eager``), as
``attn_implementation`` says.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

Values = tuple[Any, ...]
LAYERS: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}
TEXT: dict[str, Any] = {**LAYERS, "vocab_size": 500, "intermediate_size": 128}
PICTURE: dict[str, Any] = {**LAYERS, "intermediate_size": 128, "image_size": 64, "patch_size": 8}
CAUSAL: dict[str, Any] = {**TEXT, "num_key_value_heads": 2, "head_dim": 16}


def words(_: nn.Module, batch: int, generator: torch.Generator) -> Values:
    """Sentences of 24 tokens."""
    return (torch.randint(0, 500, (batch, 24), generator=generator),)


def padded_words(_: nn.Module, batch: int, generator: torch.Generator) -> Values:
    """Sentences and their padding mask, the last three tokens being padding."""
    tokens = torch.randint(0, 500, (batch, 24), generator=generator)
    return tokens, (torch.arange(24) < 21).long().expand(batch, 24)


def translation(_: nn.Module, batch: int, generator: torch.Generator) -> Values:
    """A sentence, its padding mask, and what has been translated of it."""
    tokens = torch.randint(0, 500, (batch, 24), generator=generator)
    return tokens, torch.ones_like(tokens), tokens[:, :10].flip(1)


def picture(_: nn.Module, batch: int, generator: torch.Generator) -> Values:
    """(N, 3, 64, 64)."""
    return (torch.randn(batch, 3, 64, 64, generator=generator),)


def spectrogram(_: nn.Module, batch: int, generator: torch.Generator) -> Values:
    """(N, 40, 64): features, time."""
    return (torch.randn(batch, 40, 64, generator=generator),)


def sound(_: nn.Module, batch: int, generator: torch.Generator) -> Values:
    """(N, 4000) samples."""
    return (torch.randn(batch, 4000, generator=generator),)


HUGGINGFACE: dict[str, tuple[str, str, dict[str, Any], Any]] = {
    "hf_bert_masked_words": ("BertForMaskedLM", "eager", TEXT, padded_words),
    "hf_distilbert": (
        *("DistilBertForSequenceClassification", "sdpa"),
        {"vocab_size": 500, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
        padded_words,
    ),
    "hf_roberta": ("RobertaForTokenClassification", "sdpa", TEXT, words),
    "hf_electra": ("ElectraForPreTraining", "eager", {**TEXT, "embedding_size": 32}, words),
    "hf_albert": ("AlbertModel", "sdpa", {**TEXT, "embedding_size": 32}, words),
    "hf_gpt2": (
        *("GPT2LMHeadModel", "eager"),
        {"vocab_size": 500, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},
        words,
    ),
    "hf_gpt_neox": ("GPTNeoXForCausalLM", "sdpa", TEXT, words),
    "hf_opt": (
        *("OPTForCausalLM", "sdpa"),
        {**TEXT, "ffn_dim": 128, "word_embed_proj_dim": 64, "max_position_embeddings": 64},
        words,
    ),
    "hf_llama": ("LlamaForCausalLM", "sdpa", CAUSAL, words),
    "hf_mistral": ("MistralForCausalLM", "eager", CAUSAL, words),
    "hf_qwen2": ("Qwen2ForCausalLM", "eager", CAUSAL, words),
    "hf_qwen3": ("Qwen3ForCausalLM", "sdpa", CAUSAL, words),
    "hf_gemma2": (
        *("Gemma2ForCausalLM", "eager"),
        {**CAUSAL, "query_pre_attn_scalar": 16, "sliding_window": 8},
        words,
    ),
    "hf_t5": (
        *("T5ForConditionalGeneration", "eager"),
        {"vocab_size": 500, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2}
        | {"num_heads": 4, "decoder_start_token_id": 0},
        translation,
    ),
    "hf_bart": (
        *("BartForConditionalGeneration", "sdpa"),
        {"vocab_size": 500, "d_model": 64, "max_position_embeddings": 64}
        | {f"{side}_layers": 2 for side in ("encoder", "decoder")}
        | {f"{side}_attention_heads": 4 for side in ("encoder", "decoder")}
        | {f"{side}_ffn_dim": 128 for side in ("encoder", "decoder")},
        translation,
    ),
    "hf_vit": ("ViTForImageClassification", "eager", PICTURE, picture),
    "hf_deit": ("DeiTForImageClassification", "sdpa", PICTURE, picture),
    "hf_beit": (
        *("BeitForImageClassification", "eager"),
        {**PICTURE, "use_relative_position_bias": True, "layer_scale_init_value": 0.1},
        picture,
    ),
    "hf_dinov2": ("Dinov2ForImageClassification", "sdpa", PICTURE, picture),
    "hf_swin": (
        *("SwinForImageClassification", "sdpa"),
        {"image_size": 64, "patch_size": 4, "embed_dim": 24, "depths": [2, 2]}
        | {"num_heads": [2, 4], "window_size": 4},
        picture,
    ),
    "hf_segformer": (
        *("SegformerForSemanticSegmentation", "sdpa"),
        {"hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 1, 1]}
        | {"num_attention_heads": [1, 2, 4, 6], "decoder_hidden_size": 64},
        picture,
    ),
    "hf_clip_vision": ("CLIPVisionModel", "sdpa", {**PICTURE, "num_hidden_layers": 8}, picture),
    "hf_siglip_vision": (
        "SiglipVisionModel",
        "eager",
        {**PICTURE, "num_hidden_layers": 8},
        picture,
    ),
    "hf_convnext": (
        *("ConvNextForImageClassification", ""),
        {"hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 2, 1]},
        picture,
    ),
    "hf_resnet": (
        *("ResNetForImageClassification", ""),
        {"embedding_size": 16, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1]},
        picture,
    ),
    "hf_whisper_encoder": (
        *("WhisperModel", "sdpa"),
        {"vocab_size": 500, "num_mel_bins": 40, "d_model": 64, "max_source_positions": 32}
        | {f"{side}_layers": 2 for side in ("encoder", "decoder")}
        | {f"{side}_attention_heads": 4 for side in ("encoder", "decoder")}
        | {f"{side}_ffn_dim": 128 for side in ("encoder", "decoder")}
        | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
        spectrogram,
    ),
    "hf_wav2vec2": (
        *("Wav2Vec2ForSequenceClassification", "sdpa"),
        {**TEXT, "conv_dim": [32] * 4, "conv_kernel": [10, 3, 3, 2], "conv_stride": [5, 2, 2, 2]}
        | {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
        | {"classifier_proj_size": 32, "num_feat_extract_layers": 4},
        sound,
    ),
}
"""Name: class, attention, configuration, inputs."""


class Scores(nn.Module):
    """A model of two sides that gives its scores alone.

    By itself it gives the states of its encoder, too, which as an output would have to stay.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, padding: Tensor, translated: Tensor) -> Tensor:
        """(N, T) and (N, U) words to (N, U, vocabulary)."""
        logits: Tensor = self.model(tokens, padding, translated).logits
        return logits


def huggingface(name: str) -> nn.Module:
    """One of :data:`HUGGINGFACE`, in evaluation mode."""
    import transformers

    kind, attention, sizes, _ = HUGGINGFACE[name]
    maker = getattr(transformers, kind)
    arguments = dict(sizes)
    if attention:
        arguments["attn_implementation"] = attention
    model: nn.Module = maker(maker.config_class(**arguments)).eval()
    if name.endswith("_encoder"):
        return model.get_encoder()
    return Scores(model) if kind.endswith("ConditionalGeneration") else model

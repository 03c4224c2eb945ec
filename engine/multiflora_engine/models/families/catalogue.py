"""All families that are served, and the one that a config.json means. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.families.family import Family
from multiflora_engine.models.families.gpt_like.bloom import BLOOM
from multiflora_engine.models.families.gpt_like.falcon import FALCON
from multiflora_engine.models.families.gpt_like.gpt2 import GPT2
from multiflora_engine.models.families.gpt_like.gpt_neox import GPT_NEOX
from multiflora_engine.models.families.gpt_like.gptj import GPTJ
from multiflora_engine.models.families.gpt_like.mpt import MPT, MPT_IN_TRANSFORMERS
from multiflora_engine.models.families.gpt_like.opt import OPT
from multiflora_engine.models.families.gpt_like.phi import PHI
from multiflora_engine.models.families.gpt_like.starcoder2 import STARCODER2
from multiflora_engine.models.families.hub_code.baichuan import BAICHUAN, BAICHUAN_7B
from multiflora_engine.models.families.hub_code.chatglm import CHATGLM, CHATGLM_FOR_GENERATION
from multiflora_engine.models.families.hub_code.qwen import QWEN
from multiflora_engine.models.families.llama_like.cohere import COHERE
from multiflora_engine.models.families.llama_like.cohere2 import COHERE2
from multiflora_engine.models.families.llama_like.gemma import GEMMA, GEMMA2, GEMMA3
from multiflora_engine.models.families.llama_like.glm import GLM, GLM4
from multiflora_engine.models.families.llama_like.granite import GRANITE
from multiflora_engine.models.families.llama_like.llama import LLAMA
from multiflora_engine.models.families.llama_like.mistral import MISTRAL
from multiflora_engine.models.families.llama_like.olmo2 import OLMO2
from multiflora_engine.models.families.llama_like.olmo3 import OLMO3
from multiflora_engine.models.families.llama_like.phi3 import PHI3
from multiflora_engine.models.families.llama_like.qwen2 import QWEN2
from multiflora_engine.models.families.llama_like.qwen3 import QWEN3
from multiflora_engine.models.families.llama_like.smollm3 import SMOLLM3
from multiflora_engine.models.families.llama_like.stablelm import STABLELM
from multiflora_engine.models.families.sparse.gpt_oss import GPT_OSS
from multiflora_engine.models.families.sparse.mixtral import MIXTRAL
from multiflora_engine.models.families.sparse.qwen2_moe import QWEN2_MOE
from multiflora_engine.models.families.sparse.qwen3_moe import QWEN3_MOE

FAMILIES = (
    LLAMA,
    MISTRAL,
    MIXTRAL,
    QWEN2,
    QWEN2_MOE,
    QWEN3,
    QWEN3_MOE,
    GPT_OSS,
    PHI3,
    GPT2,
    GPTJ,
    GPT_NEOX,
    PHI,
    OPT,
    FALCON,
    QWEN,
    CHATGLM,
    CHATGLM_FOR_GENERATION,
    BAICHUAN,
    BAICHUAN_7B,
    BLOOM,
    MPT,
    MPT_IN_TRANSFORMERS,
    STARCODER2,
    STABLELM,
    GRANITE,
    SMOLLM3,
    OLMO2,
    OLMO3,
    COHERE,
    COHERE2,
    GLM,
    GLM4,
    GEMMA,
    GEMMA2,
    GEMMA3,
)


def find_family(raw: Mapping[str, Any]) -> Family:
    """The family of a config.json. Raises ModelError naming what was found and what is supported."""
    named = raw.get("architectures")
    names = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    if not names:
        names = [family.name for family in FAMILIES if family.model_type == raw.get("model_type")]
    for family in FAMILIES:
        if family.name in names:
            return family
    found = ", ".join(names) or str(raw.get("model_type") or "none is named")
    supported = ", ".join(family.name for family in FAMILIES)
    raise ModelError(f"The architecture is not supported: {found}. Serve one of these: {supported}.")

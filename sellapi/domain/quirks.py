"""What a model cannot do or does differently, as data.

A quirk is looked up by the *upstream id* (also for models an operator added by hand): the first
matching row of `TABLE` counts. Adapters read these fields; no module asks for a model by name.
Sources: shared wire notes (1.3, 5.3, 6.4), that is the providers' documentation and the tables of
LiteLLM 1.106, Vercel AI SDK and pydantic-ai 2.68, state 2026-11-22.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

__all__ = ["AnthropicQuirks", "GeminiQuirks", "OpenAIQuirks", "Quirks", "quirks_for"]


@dataclass(frozen=True, slots=True)
class GeminiQuirks:
    """What a model behind Gemini's generateContent takes (wire notes 6.2-6.9).

    The defaults are for an id we do not know: nothing is sent that some model refuses.
    """

    levels: tuple[str, ...] = ()
    """Values of ``thinkingLevel`` it takes, weakest first; Gemini 3 and later."""
    budgets: tuple[int, int] | None = None
    """Least and most ``thinkingBudget``, 0 as least: thinking can be switched off; Gemini 2.5."""
    call_ids: bool = False
    """Takes ids in functionCall and functionResponse; earlier models refuse the field."""
    signatures: bool = False
    """Refuses a step whose first functionCall has lost its thoughtSignature."""
    echo_signatures: bool = True
    """Takes thoughtSignature at all."""
    penalties: bool = True
    """Takes presencePenalty and frequencyPenalty."""
    sampling: bool = True
    """Takes temperature, topP, topK."""
    json_with_tools: bool = False
    """Takes responseMimeType application/json beside functionDeclarations."""
    system_instruction: bool = True
    """Takes systemInstruction; otherwise the text goes in front of the first user part."""
    predict: bool = False
    """An Imagen model: answers ``:predict``, up to four images a call, and no usage."""
    image_sizes: tuple[str, ...] = ()
    """Values of imageConfig.imageSize (``sampleImageSize`` of ``:predict``) it takes."""
    aspect_ratios: tuple[str, ...] = ("1:1", "2:3", "3:2", "3:4", "4:3", "9:16", "16:9", "21:9")
    """Aspect ratios it draws."""


@dataclass(frozen=True, slots=True)
class AnthropicQuirks:
    """What a model behind Anthropic's Messages API takes (wire notes 5.3, 5.5).

    The defaults are for an id we do not know: what a plain, compatible model takes.
    """

    max_output: int | None = None
    """Most ``max_tokens`` it takes; more is a 400."""
    sampling: bool = True
    """Takes temperature and top_p; later models answer 400 to either."""
    adaptive: bool = False
    """Takes ``thinking: {type: adaptive}``."""
    budgets: bool = True
    """Takes ``thinking: {type: enabled, budget_tokens}``, the way before adaptive."""
    thinks_unasked: bool = False
    """Thinks when the request says nothing about it."""
    switch_off: str | None = None
    """The thinking type that stops a model that thinks unasked; None when nothing does."""
    efforts: tuple[str, ...] = ()
    """Values of output_config.effort it takes, weakest first."""
    omits_thoughts: bool = False
    """Shows its thoughts only when ``display: summarized`` asks for them."""
    forced_tools: bool = True
    """Takes tool_choice any and tool."""
    forced_tools_thinking: bool = True
    """… also while it thinks."""
    prefill: bool = False
    """Takes a conversation that ends with the assistant and goes on from there."""
    structured: bool = True
    """Takes output_config.format and strict tools."""


@dataclass(frozen=True, slots=True)
class OpenAIQuirks:
    """What a model behind OpenAI's API, or one compatible to it, takes (wire notes 1.2, 1.3, 3.1)."""

    max_completion_tokens: bool = False
    """Refuses ``max_tokens`` and wants ``max_completion_tokens``."""
    tools_without_effort: bool = False
    """OpenAI itself refuses function tools unless ``reasoning_effort`` is ``none``."""
    thinks_unasked: bool = True
    """Thinks, if it can at all, when the request names no effort."""
    store: bool = True
    """Takes ``store``; others refuse a body with it."""
    response_format: bool = True
    """An image model that takes ``response_format``; the gpt-image family refuses it."""


@dataclass(frozen=True, slots=True)
class Quirks:
    """Properties of a model family. Defaults describe a plain model that takes everything."""

    reasoning: bool = False
    """May think before it answers; its thoughts count as output."""
    hidden_thoughts: bool = False
    """Thinks without showing it: an aborted call is charged by time as well."""
    tokens_per_second: int = 80
    """Upper figure for how fast output tokens come, for aborted calls with hidden thoughts."""
    image_tokens: int = 1_700
    """Most tokens one input image can cost."""
    document_tokens: int = 300_000
    """Most tokens one document or file of unseen size can cost."""
    openai: OpenAIQuirks = OpenAIQuirks()
    """For providers of kind openai."""
    image_output_tokens: int | None = None
    """Most tokens one drawn image can cost where quality does not matter; None: by quality."""
    gemini: GeminiQuirks = GeminiQuirks()
    """For providers of kind gemini."""
    anthropic: AnthropicQuirks = AnthropicQuirks()
    """For providers of kind anthropic."""


_DEFAULT = Quirks()

# --- gemini: wire notes 6.3 (ids), 6.4 (thinking, penalties, sampling), 6.6 (signatures), 6.9
_LEVELS_FLASH = ("minimal", "low", "medium", "high")
_LEVELS_PRO = ("low", "medium", "high")
_GEMINI_3 = GeminiQuirks(
    levels=_LEVELS_FLASH,
    call_ids=True,
    signatures=True,
    penalties=False,
    json_with_tools=True,
)
_IMAGEN_RATIOS = ("1:1", "3:4", "4:3", "9:16", "16:9")


def _thinker(gemini: GeminiQuirks, tokens_per_second: int = 300) -> Quirks:
    """A model whose thoughts are at most summarised: an aborted call is charged by time as well."""
    return Quirks(
        reasoning=True,
        hidden_thoughts=True,
        tokens_per_second=tokens_per_second,
        gemini=gemini,
    )


_GEMINI: tuple[tuple[str, Quirks], ...] = (
    (
        r"imagen-",
        Quirks(
            gemini=GeminiQuirks(
                predict=True, image_sizes=("1K", "2K"), aspect_ratios=_IMAGEN_RATIOS
            )
        ),
    ),
    (
        r"gemini-(2\.\d|1\.\d).*image",
        Quirks(image_output_tokens=1_290, gemini=GeminiQuirks()),
    ),
    (
        r"gemini-(\d\d|[3-9]).*image",
        replace(
            _thinker(
                replace(_GEMINI_3, levels=(), image_sizes=("1K", "2K", "4K"), signatures=False)
            ),
            image_output_tokens=2_600,
        ),
    ),
    (r"gemini-2\.5-pro", _thinker(GeminiQuirks(budgets=(128, 32_768)))),
    (r"gemini-2\.5-", _thinker(GeminiQuirks(budgets=(0, 24_576)))),
    (r"gemini-([12]\.\d|1|2)-", Quirks(gemini=GeminiQuirks(echo_signatures=False))),
    (r"gemini-3\.5-flash-lite", _thinker(replace(_GEMINI_3, sampling=False))),
    (r"gemini-3\.[6-8]-flash", _thinker(replace(_GEMINI_3, sampling=False))),
    (r"gemini-3-pro", _thinker(replace(_GEMINI_3, levels=("low", "high")), 150)),
    (r"gemini-(\d\d|[3-9])[^/]*pro", _thinker(replace(_GEMINI_3, levels=_LEVELS_PRO), 150)),
    (r"gemini-pro-latest", _thinker(replace(_GEMINI_3, levels=_LEVELS_PRO), 150)),
    (r"gemini-flash(-lite)?-latest", _thinker(replace(_GEMINI_3, sampling=False))),
    (r"gemini-(\d\d|[3-9])", _thinker(_GEMINI_3)),
    (
        r"gemma-3",
        Quirks(gemini=GeminiQuirks(system_instruction=False, echo_signatures=False)),
    ),
)

# --- anthropic: wire notes 5.3 (limits, sampling, thinking, effort, forced tools, prefill)
_EFFORTS_45 = ("low", "medium", "high")
_EFFORTS_46 = ("low", "medium", "high", "max")
_EFFORTS_47 = ("low", "medium", "high", "xhigh", "max")

_CLAUDE_3 = AnthropicQuirks(
    max_output=4_096, budgets=False, prefill=True, structured=False, forced_tools_thinking=False
)
_CLAUDE_4 = replace(_CLAUDE_3, max_output=64_000, budgets=True)
_CLAUDE_45 = replace(_CLAUDE_4, structured=True)
_CLAUDE_46 = AnthropicQuirks(
    max_output=128_000, adaptive=True, efforts=_EFFORTS_46, forced_tools_thinking=False
)
_CLAUDE_47 = AnthropicQuirks(
    max_output=128_000,
    sampling=False,
    adaptive=True,
    budgets=False,
    efforts=_EFFORTS_47,
    omits_thoughts=True,
)
_CLAUDE_5 = replace(_CLAUDE_47, thinks_unasked=True, switch_off="disabled")
_SONNET_55 = replace(_CLAUDE_5, switch_off="between_tools", forced_tools=False)
_FABLE_5 = replace(_CLAUDE_5, switch_off=None)
_CLAUDE_55 = replace(_FABLE_5, forced_tools=False)


def _claude(anthropic: AnthropicQuirks) -> Quirks:
    """A model that thinks unasked hides it: an aborted call is charged by time as well."""
    thinks = anthropic.thinks_unasked
    return Quirks(
        reasoning=thinks,
        hidden_thoughts=thinks,
        tokens_per_second=150,
        image_tokens=1_700 if anthropic.sampling else 5_000,
        anthropic=anthropic,
    )


_ANTHROPIC: tuple[tuple[str, Quirks], ...] = (
    (r"haiku-5[-.]5(?!\d)", _claude(_CLAUDE_5)),
    (r"sonnet-5[-.]5(?!\d)", _claude(_SONNET_55)),
    (r"opus-5[-.]5(?!\d)", _claude(_CLAUDE_55)),
    (r"(fable|mythos)-5[-.]\d(?!\d)", _claude(_CLAUDE_55)),
    (r"(fable|mythos)-5(?!\d)", _claude(_FABLE_5)),
    (r"(sonnet|opus)-5(?![-.]?\d(?!\d))", _claude(_CLAUDE_5)),
    (r"[a-z]+-4[-.][789](?!\d)", _claude(_CLAUDE_47)),
    (r"[a-z]+-4[-.]6(?!\d)", _claude(_CLAUDE_46)),
    (r"opus-4[-.]5(?!\d)", _claude(replace(_CLAUDE_45, efforts=_EFFORTS_45))),
    (r"[a-z]+-4[-.]5(?!\d)", _claude(_CLAUDE_45)),
    (r"opus-4[-.]1(?!\d)", _claude(replace(_CLAUDE_45, max_output=32_000))),
    (r"opus-4(?!\d)", _claude(replace(_CLAUDE_4, max_output=32_000))),
    (r"[a-z]+-4(?!\d)", _claude(_CLAUDE_4)),
    (r"3[-.]7-", _claude(replace(_CLAUDE_3, max_output=64_000, budgets=True))),
    (r"3[-.]5-", _claude(replace(_CLAUDE_3, max_output=8_192))),
    (r"3-", _claude(_CLAUDE_3)),
    # Later ones than we know: only what the newest known take.
    (r"[a-z]+-([5-9]|\d\d)(?!\d)", _claude(_CLAUDE_55)),
)

# --- openai: wire notes 1.2 (token limit), 1.3 (effort and tools), 3.1 (images)
_GPT_5 = OpenAIQuirks(max_completion_tokens=True)
_GPT_51 = replace(_GPT_5, thinks_unasked=False)


def _gpt(openai: OpenAIQuirks = _GPT_5) -> Quirks:
    """OpenAI's reasoning models never show their thoughts."""
    return Quirks(reasoning=True, hidden_thoughts=True, tokens_per_second=150, openai=openai)


_OPENAI: tuple[tuple[str, Quirks], ...] = (
    (r"(chat)?gpt-image", Quirks(openai=OpenAIQuirks(response_format=False))),
    (r"gpt-oss", Quirks(reasoning=True)),
    (r"gpt-5-chat", Quirks(openai=_GPT_5)),
    (r"o[1-9](?![\w.])", _gpt()),
    # Those that cannot do without reasoning.
    (r"gpt-(6-astra|6\.1-sol)", _gpt()),
    (r"gpt-[5-9][^/]*-(pro|codex|chat)", _gpt()),
    (r"gpt-5(\.0)?(?![\d.])", _gpt()),
    (r"gpt-5\.[1-3](?![\d.])", _gpt(_GPT_51)),
    (r"gpt-5\.4(?![\d.])", _gpt(replace(_GPT_51, tools_without_effort=True))),
    (r"gpt-([5-9]|\d\d)(?!\d)", _gpt(replace(_GPT_5, tools_without_effort=True))),
    (r"grok-([4-9]|\d\d)", Quirks(reasoning=True, hidden_thoughts=True)),
    (r"deepseek-(r\d|reasoner)", Quirks(reasoning=True)),
    (
        r"(open-)?(mistral|mixtral|ministral|magistral|codestral|devstral|pixtral)",
        Quirks(openai=OpenAIQuirks(store=False)),
    ),
)

TABLE: tuple[tuple[str, Quirks], ...] = (
    *((rf"openai/(?:.*/)?{pattern}", quirks) for pattern, quirks in _OPENAI),
    *((rf"anthropic/(?:.*[./])?claude-{pattern}", quirks) for pattern, quirks in _ANTHROPIC),
    *((rf"gemini/(?:models/)?{pattern}", quirks) for pattern, quirks in _GEMINI),
)


@lru_cache(maxsize=4096)
def quirks_for(kind: str, upstream_id: str) -> Quirks:
    """The quirks of an upstream id at a provider kind; the plain defaults when none match."""
    name = f"{kind}/{upstream_id}"
    for pattern, quirks in TABLE:
        if re.match(pattern, name):
            return quirks
    return _DEFAULT

"""What error bodies and error events say, in the words of those that speak the dialects.

Pure: no mitmproxy, no clock, no I/O. Nothing here raises, whatever shape an error has. Codes are believed
before messages, and of a message only the beginning is read: further on it may quote a prompt.

The words are those of the providers' documentation and of public fault reports; where one provider's code is
another's number, only its message is believed.
"""

from __future__ import annotations

import re
from typing import Any

from sidestep.breaker.outcomes import NO_ERROR, ErrorFacts, ErrorKind
from sidestep.dialects.lenient import UnreadableError, loads

MAX_MESSAGE = 2_000
"""Characters kept of a provider's error message."""
_READ = 400
"""Characters of a message that its kind is judged by."""
_TEXT_BYTES = 4_000
_MAX_CODE = 100


def _words(*lines: str) -> re.Pattern[str]:
    """Any of some patterns, several of them a line with ` | ` between."""
    return re.compile("|".join(lines).replace(" | ", "|"), re.IGNORECASE)


# Codes: what stands in `code`, `type`, `status` or a detail's `reason`. Four digits: Zhipu's and MiniMax' own.
_QUOTA_CODES = _words(
    r"insufficient_quota | insufficient_balance | insufficient_credits | insufficient_user_quota",
    r"exceeded_current_quota | billing_ | quota_exceeded_permanently | payment_required | credits_exhausted",
    r"budget_exceeded | arrearage | accountoverdue | overdue | freetieronly | token_quota_(?:failed|reached)",
    r"usage_limit_reached | usage_limit_exceeded | spend_limit | organization_restricted | blocked_api_access",
    r"usage_not_included | credits?_depleted",
    r"account_deactivated | account_disabled | account_suspended | consumer_suspended | organization_disabled",
    r"unsupported_country | invalid_payment_instrument | setlimitexceeded | \b1008\b | \b111[23]\b | \b1308\b",
)
_MODEL_CODES = _words(
    r"model_not_found | modelnotfound | model_not_available | model_not_supported | model_not_exist",
    r"unknown_model | unavailable_model | invalid_model | model_decommissioned | deploymentnotfound",
    r"invalidendpointormodel | model_permission_blocked | model\.accessdenied | model_access_denied | modelnotopen",
    r"operationnotsupported | \b121[12]\b",
)
_CONTEXT_CODES = _words(
    r"context_length_exceeded | context_window_exceeded | exceed_context_size | model_max_prompt_tokens_exceeded",
    r"contextwindowexceeded | \b1261\b",
)
_CREDENTIAL_CODES = _words(
    r"invalid_api_key | api_key_invalid | authentication_error | invalid_authentication | unauthenticated"
)
_RATE_CODES = _words(r"rate_limit | resource_exhausted | too_many_requests | throttl | ratelimit | \b130[235]\b")
_OVERLOAD_CODES = _words(r"overloaded | \bunavailable\b | server_busy | slow_down | capacity")
_LACKS_CODES = _words(
    r"unsupported_(?:parameter|value|operation|media_type|content_type|image_media) | unknown_parameter",
    r"extra_forbidden | request_too_large | not_implemented | method_not_allowed | route_not_found | unknown_url",
    r"unimplemented | above_max_(?:value|length)",
)
_POLICY_CODES = _words(
    r"content_filter | content_policy | policy_violation | \b\w+_policy\b | invalid_prompt | data_?inspection",
    r"sensitivecontent | moderation | safety | prohibited | unsafe | malicious | \b1301\b | \b102[67]\b",
)
_INVALID_CODES = _words(
    r"invalid_request | invalid_argument | badrequest | bad_request | invalid_value | invalid_type",
    r"missing_required | invalid_parameter | invalidparameter | failed_precondition | validation | \binvalid_",
    r"image_(?:too|parse|file) | failed_to_download_image | empty_image | unprocessable | data_residency",
    r"(?:response|item|conversation)_not_found | session_expired",
)
_RELAYED_CODES = _words(
    _OVERLOAD_CODES.pattern,
    r"overload | service_?unavailable | bad_gateway | gateway_timeout | upstream_ | bad_response | deadline_exceeded",
    r"do_request_failed | no_providers_available",
)
"""Codes of a failure that contradict a 4xx. `server_error` and the like do not: some put it into every error."""
_SERVER_CODES = _words(_RELAYED_CODES.pattern, r"internal_?server_?error | \bserver_error | \binternal_?(?:error)?\b")

# Messages.
_QUOTA = _words(
    r"insufficient (?:account )?(?:balance|credits?|funds|quota)",
    r"(?:credit )?balance is (?:too low|insufficient) | requires? more credits",
    r"out of (?:credits|funds|extra usage|call volume quota|quota) | used all available credits",
    r"reached (?:its|your) (?:monthly )?spending limit | spending (?:cap|limit)",
    r"not enough (?:credits?|balance|quota) | billing hard limit | check your (?:plan and )?billing",
    r"doesn't have any credits",
    r"(?:reached|exceeded) your (?:specified |monthly |current |available )?(?:api )?usage limit",
    r"usage limit has been | exceeded your monthly",
    # Plans, where no header says which window it is.
    r"(?:usage|session|weekly|5-hour) limit reached",
    r"(?:hit|reached) your (?:\w+ )?(?:usage|session|weekly|5-hour) limit",
    r"(?:monthly|included|prepayment|prepaid) (?:included )?credits? | key limit exceeded",
    r"quota (?:is )?(?:not enough|insufficient|exhausted|used up|has been (?:used|exhausted))",
    r"budget has been exceeded",
    r"(?:organi[sz]ation|account|project|workspace|team|consumer)\b[^.]{0,80}(?:is|has been|was) (?:\w+ ){0,2}"
    r"(?:disabled|deactivated|suspended|restricted|terminated|banned|blocked|archived)",
    r"account is not active | in good standing | \barrears?\b | overdue | past invoices",
    r"payment (?:is )?required | requires billing | location is not supported",
    r"(?:not available in|not supported in) your (?:country|region|location)",
    r"not (?:currently )?allowed for (?:this|your) organi[sz]ation | organi[sz]ation has disabled",
    r"country, region, or territory not supported | 欠费 | 余额不足 | 额度不足 | 额度已用尽",
)
_BARRED_KEY = _words(
    r"\b(?:api|access)[ _-]?key\b[^.]{0,60}(?:is|has been|was) (?:\w+ ){0,2}"
    r"(?:disabled|deactivated|suspended|restricted|revoked|banned|blocked|leaked)",
    r"(?:api_?key|\bkey|token)_(?:is_)?(?:disabled|revoked|suspended|blocked)",
)
"""A key that was good. With a 401 it is refused as any other."""
_OPENAI_QUOTA = "exceeded your current quota"
"""OpenAI's word for an account that is spent, and Google's for any rate limit."""
_NAME = r"(?:[`'\"][^`'\"]{1,100}[`'\"]|[\w./:@+-]{1,100})"
_GONE = (
    r"(?:is |was |has been |does )?(?:not (?:be )?(?:found|exist|available|recognized)|deprecated|decommissioned|"
    r"not supported by any provider|not a valid model|not support the requested|blocked)"
)
_MODEL = _words(
    rf"\bmodel:? (?:{_NAME} )?{_GONE}",
    rf"\bmodels/\S{{1,100}} {_GONE}",
    rf"\b{_NAME} is not a valid model",
    r"(?:invalid|unknown|unrecognized|not found the) model\b",
    r"no such model",
    r"unable to access model",
    r"(?:not have access to|access to (?:the|this)) (?:the )?model | \bmodel access is denied",
    r"no endpoints found for",
    r"no available channel for model",
    r"model identifier is invalid",
    r"not a chat model",
    r"does not work with the specified model",
    r"with on-demand throughput isn.t supported",
    r"deployment for this resource does not exist",
    r"模型不存在",
    r"^model: ",
)
_CONTEXT = _words(
    r"maximum context length | context length is only | context window | context limit | available context size",
    r"prompt is too long | input is too long | maximum prompt length is | maximum input length is",
    r"input token count.{0,40}exceeds | input tokens exceed | too large for model with | too many input tokens",
    r"reduce the length of the | exceeded model token limit | range of input length should be",
    r"request too large for model | too many tokens:  | greater than the context length | prompt too long",
    r"contextwindowexceeded | context length.{0,40}exceed | exceeds?.{0,40}context length",
    # SGLang, LM Studio, Hugging Face's server and Together.
    r"longer than the model's context length | input length\b.{0,40}exceeds the maximum allowed length",
    r"loaded with context length of | reached context length",
    r"`inputs` tokens \+ `max_new_tokens` must be | `inputs` must have less than",
)
_SIZE_LIMITED = _words(
    r"too large for .{0,120}(?:per (?:min|day|hour)|\btp[md]\b|\brp[md]\b|rate limit)",
    r"request too large\b.{0,200}\blimit \d+, requested \d+",
    r"extra usage is required for long context",
)
"""OpenAI and Groq: one request that asks for more than a minute's worth of tokens. Claude's plans: one that is longer
than they pay for."""
_CREDENTIAL = _words(
    r"api key not valid | api key not found | api key expired | invalid api key | incorrect api key",
    r"invalid x-api-key | no auth credentials found | invalid authentication | \blogin fail",
    r"\bapi[ _-]?key\b[^.]{0,40}(?:is|was) (?:\w+ ){0,2}(?:invalid|incorrect|wrong|expired|missing)",
)
_SEALED = _words(
    # Claude and those that speak its dialect; each is the leading clause of what they say.
    r"invalid `?signature`? in `?thinking`? block | signature: extra inputs are not permitted",
    r"thinking\.signature: ",
    r"`?thinking`? or `?redacted_thinking`? | content\[\]\.thinking",
    # OpenAI, Azure, xAI, vLLM; and chat.
    r"encrypted.content | required 'reasoning' item | 'rs_[^']*' (?:of type 'reasoning'|not found)",
    r"reasoning_content`? in the thinking mode must be passed back | reasoning_content is missing",
    # Gemini, and Amazon Bedrock's own form.
    r"thought.signature | reasoningtext\.signature",
)
_RATE = _words(r"\brate.?limit | too many requests | high.frequency | 请求过于频繁 | requests? too frequent")
_LOADING = _words(r"\bloading (?:the )?model | \bmodel\b[^.]{0,80} is (?:currently |still )?(?:being loaded|loading)\b")
"""llama.cpp's server, and Hugging Face's inference API."""
_OVERLOADED = _words(r"overloaded | \bat capacity\b | server is busy | try again later")
_POLICY = _words(
    r"content management policy | content polic | usage polic | safety system | was flagged | been flagged",
    r"requires moderation | content filter | inappropriate content | sensitive | high risk | violat | 敏感",
    r"prohibited content | blocked by | harmful | guardrail",
)
_LACKS = _words(
    r"unsupported | \bnot (?:yet )?(?:currently )?(?:be )?supported | (?:does|do|did|can)(?: not|n.t) support",
    r"supports? (?:only|at most) | only supports?",
    r"\bunknown (?:name|field|parameter|argument|key|property|type|value|variant|role) | cannot find field",
    r"unrecogni[sz]ed (?:\w+ ){0,2}(?:argument|parameter|field|key|value|property)",
    r"unexpected (?:keyword|value|field|parameter|argument|property) | extra (?:inputs|fields|properties)",
    r"additional propert | not (?:yet )?(?:permitted|allowed|enabled|implemented|available)\b | supported values are",
    r"(?:is not|must be|should be) one of | input should be | is too large | too many (?:tools|images|stop)",
    r"maximum allowed | (?:above|exceeds?) (?:the )?(?:\w+ ){0,3}maximum | (?:less|smaller) than or equal",
    r"array too long | string too long | no endpoints found that | no endpoints available",
    r"no endpoints found matching | anthropic-beta | has not been used in project | entity too large",
    r"payload too large | exceeds the (?:maximum )?(?:size|limit) | context-1m",
    r"\b(?:type|format|feature|option|tool|field|parameter) is (?:\w+ ){0,2}unavailable | valid (?:range|enum)",
    r"requires? (?:--\w|`--) | schema is (?:invalid|not valid) | invalid schema | invalid json schema",
)
_FETCHED = _words(
    r"\b(?:download|fetch)(?:ing)? (?:the |an? )?(?:https?:// | image | file | document | media | video)",
    r"invalid_image_url",
)
"""The provider could not get what the request names: a status or a timeout that is told with it is of whoever keeps
that (OpenAI: `Error while downloading https://… Upstream status code: 503.`)."""
_INVALID = _words(
    r"\binvalid\b | must (?:be|have|contain) | \bis required | missing | malformed | could not parse",
    r"bad request | validation error | expected .{0,60} got",
)
_SERVER = _words(
    r"internal (?:server )?error | bad gateway | service (?:is )?(?:temporarily )?unavailable",
    r"gateway time.?out | upstream (?:connect|error|request|service|server|provider|returned|response|timed)",
    r"no healthy (?:upstream|deployment) | (?:error|status)[ _]?(?:code)?[:=]? ?5\d\d\b | \bHTTP(?:/[\d.]+)? 5\d\d\b",
    r"overloaded | \bconnection (?:error|reset|refused)",
    r"all (?:\w+ )?(?:providers|upstreams|deployments) (?:have )?failed",
    r"\b(?:request|inference|operation|generation|provider|upstream|server|model)\b[^.]{0,40} timed out",
    r"deadline (?:expired|exceeded) | capacity exceeded | \bis currently loading",
    r"\bdegraded function",  # NVIDIA
    # Servers of one's own.
    r"\b(?:runner|model|engine|worker) (?:process )?(?:has |was )?(?:crashed|terminated|died)",
    r"enginecore | enginedead | \bout of memory\b | \bcuda (?:error|out)",
    r"上游 | 饱和 | 网络错误 | 内部错误 | 繁忙 | 服务不可用 | 请稍后(?:再试|重试)",
    r"litellm\.(?:internalservererror|serviceunavailableerror|apiconnectionerror|timeout|badgatewayerror)",
    r"temporarily unavailable | server had an error",
)
_WRAPPED = _words(
    r"litellm\.(?!auth) | \b5\d\d\b.{0,20}(?:unavailable|error|gateway|timeout) | provider returned error"
)
_AGGREGATED = "provider returned error"
_CLOUDFLARE = re.compile(r"error code: 1\d{3}\b")
"""The body of a refusal by Cloudflare where no page is wanted."""

_ABOUT_REQUEST = frozenset({0, 400, 403, 404, 413, 422})
_STATUS_OF = {"permission_error": 403, "not_found_error": 404, "timeout_error": 504}
"""Anthropic's words for a status, where none is told."""
_NOT_TAKEN = frozenset({404, 405, 406, 410, 411, 413, 414, 415, 416, 417, 426, 431, 451})
"""Statuses about what a provider has and takes: endpoints, methods, sizes, forms."""


def facts_in(status: int, body: bytes) -> ErrorFacts:
    """What an error body says. `status` 0: it came in a 2xx, or in a stream; its own code then stands for one."""
    said = _Said()
    try:
        said.read(loads(body))
    except UnreadableError:
        text = body[:_TEXT_BYTES].decode("utf-8", "replace").strip()
        if text.startswith("<") or _CLOUDFLARE.match(text):
            return ErrorFacts(ErrorKind.PAGE)
        said.message = text[:MAX_MESSAGE]
    if not status:
        if not said.message and not said.words and not said.code:
            return NO_ERROR
        status = said.code or next((_STATUS_OF[w] for w in said.words if w in _STATUS_OF), 0)
    return ErrorFacts(_kind(status, said), said.message)


def facts_of_words(text: str) -> ErrorFacts:
    """What plain words say, with no document around them; NO_ERROR where none of them is known. OpenAI closes a
    WebSocket with its codes (`invalid_request_error.invalid_api_key`), others with sentences."""
    said = _Said()
    said.message = text
    said.words = [text[:_MAX_CODE]] if " " not in text else []
    kind = _kind(0, said, unknown=ErrorKind.NONE)
    return NO_ERROR if kind is ErrorKind.NONE else ErrorFacts(kind, text[:MAX_MESSAGE])


def _kind(status: int, said: _Said, unknown: ErrorKind = ErrorKind.SERVER) -> ErrorKind:
    """`unknown`: of an error in a 2xx of whose words none is known."""
    text, words = said.message[:_READ], " ".join(said.words)
    if 500 <= status < 600:
        status = 503 if status == 529 else status
        if status == 503 and _LOADING.search(text):
            return ErrorKind.LOADING
        overloaded = status == 503 or _OVERLOAD_CODES.search(words)
        return ErrorKind.OVERLOADED if overloaded else ErrorKind.SERVER
    if _SIZE_LIMITED.search(text):
        return ErrorKind.SIZE_LIMITED
    googles = "RESOURCE_EXHAUSTED" in said.words
    if status == 402 or _QUOTA_CODES.search(words):
        return ErrorKind.QUOTA
    if _QUOTA.search(text.replace(_OPENAI_QUOTA, "").replace("check your plan and billing", "") if googles else text):
        return ErrorKind.QUOTA
    if not googles and _OPENAI_QUOTA in text:
        return ErrorKind.QUOTA
    if status != 401 and (_BARRED_KEY.search(words) or _BARRED_KEY.search(text)):
        return ErrorKind.QUOTA
    if status in _ABOUT_REQUEST:
        # The length first: its message often names the model.
        if _CONTEXT_CODES.search(words) or (status != 404 and _CONTEXT.search(text)):
            return ErrorKind.CONTEXT_TOO_LONG
        if _MODEL_CODES.search(words) or _MODEL.search(text):
            return ErrorKind.UNKNOWN_MODEL
        if status == 400 and (_SEALED.search(words) or _SEALED.search(text)):
            return ErrorKind.SEALED
    if status == 429 or _RATE_CODES.search(words):
        return ErrorKind.RATE_LIMIT
    if status == 401 and _WRAPPED.search(text):
        return ErrorKind.RELAYED
    if status == 401 or _CREDENTIAL_CODES.search(words) or (status in _ABOUT_REQUEST and _CREDENTIAL.search(text)):
        return ErrorKind.CREDENTIAL
    if status >= 400:
        return _refusal(status, said, words, text)
    if _POLICY_CODES.search(words):
        return ErrorKind.INVALID
    if _OVERLOAD_CODES.search(words):
        return ErrorKind.OVERLOADED
    if _SERVER_CODES.search(words):
        return ErrorKind.SERVER
    if _LACKS_CODES.search(words):
        return ErrorKind.LACKS
    if _INVALID_CODES.search(words):
        return ErrorKind.LACKS if _LACKS.search(text) and not _POLICY.search(text) else ErrorKind.INVALID
    # Of a code that is not known here the message may still say that it is a limit, or a policy.
    for pattern, kind in _BY_MESSAGE if said.vague or not words else _BY_MESSAGE[:2]:
        if pattern.search(text):
            return kind
    return unknown


_BY_MESSAGE = (
    (_RATE, ErrorKind.RATE_LIMIT),
    (_POLICY, ErrorKind.INVALID),
    (_OVERLOADED, ErrorKind.OVERLOADED),
    (_SERVER, ErrorKind.SERVER),
    (_LACKS, ErrorKind.LACKS),
    (_INVALID, ErrorKind.INVALID),
)


def _refusal(status: int, said: _Said, words: str, text: str) -> ErrorKind:
    """A 4xx that names neither a limit, nor a model, nor a credential in its codes."""
    if _POLICY_CODES.search(words) or _POLICY.search(text):
        return ErrorKind.INVALID
    if _FETCHED.search(words) or _FETCHED.search(text):
        return ErrorKind.LACKS
    if said.relayed or _RELAYED_CODES.search(words) or _SERVER.search(text):
        return ErrorKind.RELAYED
    if _RATE.search(text):
        return ErrorKind.RATE_LIMIT
    if _LACKS_CODES.search(words) or _LACKS.search(text) or status in _NOT_TAKEN:
        return ErrorKind.LACKS
    if status == 403:
        return ErrorKind.CREDENTIAL
    return ErrorKind.INVALID if words or text else ErrorKind.NONE


class _Said:
    """An error's words. State: its message, its codes, the HTTP status among them (else 0), whether an aggregator
    hands on a failure of the provider behind it."""

    def __init__(self) -> None:
        self.message = ""
        self.words: list[str] = []
        self.code = 0
        self.relayed = False

    @property
    def vague(self) -> bool:
        """The codes say nothing that is in any list: `error`, a number of the provider's own."""
        return all(w.lower() in _VAGUE or w.isdigit() for w in self.words)

    def read(self, data: Any) -> None:
        for _ in range(8):  # an error wrapped in another one's message, in a list, in an object
            if isinstance(data, str):
                inner = _wrapped(data)
                if inner is None:
                    self.message = data[:MAX_MESSAGE]
                    return
                data = inner
            if isinstance(data, list):
                data = data[0] if data else None
            if not isinstance(data, dict):
                return
            self._note(data)
            errors = data.get("errors")
            inner = data.get("error") or (errors if isinstance(errors, list) and errors else None)
            if inner is None and isinstance(data.get("base_resp"), dict):
                inner = data["base_resp"]
            if isinstance(inner, (dict, list, str)) and not (isinstance(inner, str) and data.get("message")):
                data = inner
                continue
            keys = ("message", "detail", "msg", "error_description", "status_msg")
            message = next((data[k] for k in keys if data.get(k)), "")
            raw = _raw_of(data)
            if isinstance(message, str) and message.lower().startswith(_AGGREGATED):
                self._note_relayed(raw)
            if isinstance(message, str) and raw and len(message) < _READ // 2:
                message = f"{message} {raw}"
            if isinstance(message, (str, list, dict)) and message:
                data = message
                continue
            return

    def _note(self, data: dict[str, Any]) -> None:
        """Collects an error's codes."""
        for key in ("code", "type", "status", "status_code", "__type"):
            value = data.get(key)
            if isinstance(value, str) and value not in ("error", "message"):
                self.words.append(value[:_MAX_CODE])
                if key == "code" and re.fullmatch(r"[45]\d\d", value):
                    self._note_status(int(value))
            elif isinstance(value, int) and not isinstance(value, bool):
                if 400 <= value < 600:
                    self._note_status(value)
                elif 1000 <= value < 1_000_000:
                    self.words.append(str(value))
        details = data.get("details")
        for detail in details if isinstance(details, list) else ():
            reason = detail.get("reason") if isinstance(detail, dict) else None
            if isinstance(reason, str):
                self.words.append(reason[:_MAX_CODE])

    def _note_status(self, status: int) -> None:
        self.code = status
        self.relayed = self.relayed or status >= 500

    def _note_relayed(self, raw: str) -> None:
        """An aggregator says nothing of its own: what it quotes decides, and where that is no sentence either
        (`ERROR`, nothing at all), the provider behind it has broken."""
        inner = _wrapped(raw)
        if inner is None:
            self.relayed = self.relayed or len(raw.split()) < 2
            return
        quoted = _Said()
        quoted.read(inner)
        self.words += quoted.words
        self.code = quoted.code or self.code
        self.relayed = self.relayed or quoted.relayed


_VAGUE = frozenset({"error", "unknown", "unknown_error", "api_error", "null", "none"})


def _wrapped(text: str) -> Any:
    """The JSON that a message consists of, None if it is plain text."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return loads(text.encode("utf-8", "replace"))
    except UnreadableError:
        return None


def _raw_of(data: dict[str, Any]) -> str:
    """What an aggregator hands on of the error of the provider behind it."""
    metadata = data.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    return raw[:MAX_MESSAGE] if isinstance(raw, str) else ""

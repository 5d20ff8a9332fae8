"""Drives the gateway with OpenAI's own client, unchanged but for the base URL; exits 0 when everything is as it expects.

Usage: gateway_client.py BASE_URL KEY SIMULATOR_URL PROVIDER
"""

import json
import sys
import urllib.request

import openai
from pydantic import BaseModel

base_url, key, simulator, provider = sys.argv[1:5]
client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=30)
QUESTION = [{"role": "user", "content": "what is a tide?"}]
TOOL = {
    "type": "function",
    "function": {"name": "moon", "parameters": {"type": "object", "properties": {}}},
}


class Tide(BaseModel):
    answer: str


def behave(**behaviour):
    """Sets how the simulated AI service behaves; what is not said is healthy."""
    request = urllib.request.Request(
        f"{simulator}/sim/behaviour",
        data=json.dumps(behaviour).encode(),
        method="PUT",
        headers={"content-type": "application/json"},
    )
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10).read()


def whole():
    answer = client.chat.completions.create(model="simulated", messages=QUESTION, temperature=0.2, seed=7)
    assert answer.choices[0].message.content.startswith("Answer to"), answer
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    raw = client.chat.completions.with_raw_response.create(model="simulated", messages=QUESTION)
    assert raw.headers["x-tidegate-service"] == "primary", raw.headers
    assert raw.parse()._request_id.startswith("req_"), raw.headers


def streamed():
    text, usage = "", None
    stream = client.chat.completions.create(
        model="simulated", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        usage = chunk.usage or usage
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
    assert text.startswith("Answer to") and usage.completion_tokens > 0, (text, usage)
    with client.chat.completions.create(model="simulated", messages=QUESTION, stream=True) as stream:
        next(iter(stream))


def tools():
    question = [{"role": "user", "content": "[[ai:handoff]] where is it?"}]
    answer = client.chat.completions.create(model="simulated", messages=question, tools=[TOOL])
    call = answer.choices[0].message.tool_calls[0]
    assert (call.function.name, answer.choices[0].finish_reason) == ("moon", "tool_calls"), answer
    names, arguments = [], ""
    for part in client.chat.completions.create(model="simulated", messages=question, tools=[TOOL], stream=True):
        for called in (part.choices[0].delta.tool_calls or []) if part.choices else []:
            names += [called.function.name] if called.function.name else []
            arguments += called.function.arguments or ""
    assert (names, json.loads(arguments)) == (["moon"], {}), (names, arguments)
    asked = answer.choices[0].message.model_dump(exclude_none=True)
    asked["tool_calls"].append({**asked["tool_calls"][0], "id": "second"})
    question += [
        asked,
        {"role": "tool", "tool_call_id": call.id, "content": "behind a cloud"},
        {"role": "tool", "tool_call_id": "second", "content": "still there"},
    ]
    for given in [{"tools": [TOOL]}, {}]:
        answer = client.chat.completions.create(model="simulated", messages=question, **given)
        assert answer.choices[0].message.content.startswith("Answer to"), answer


def structured():
    answer = client.chat.completions.parse(model="simulated", messages=QUESTION, response_format=Tide)
    assert isinstance(answer.choices[0].message.parsed, Tide), answer


def embedded():
    assert [model.id for model in client.models.list()] == ["simulated"]
    assert client.models.retrieve("simulated").id == "simulated"
    if provider == "anthropic":
        try:
            client.embeddings.create(model="simulated", input=["a tide"])
        except openai.BadRequestError as refusal:
            assert refusal.code == "unsupported_by_provider", refusal
            return
        raise AssertionError("this provider has no embeddings")
    answer = client.embeddings.create(model="simulated", input=["a tide", "a moon"], dimensions=16)
    assert [len(item.embedding) for item in answer.data] == [16, 16]


def refused():
    for wrong, error in [
        (lambda: client.with_options(api_key="wrong").models.list(), openai.AuthenticationError),
        (lambda: client.chat.completions.create(model="unknown", messages=QUESTION), openai.NotFoundError),
        (lambda: client.chat.completions.create(model="simulated", messages=[]), openai.BadRequestError),
    ]:
        try:
            wrong()
        except error as refusal:
            assert refusal.code and refusal.type, refusal
            assert refusal.request_id.startswith("req_"), refusal.response.headers
        else:
            raise AssertionError(f"{error} was to come")


def broken_off():
    behave(break_stream_after=2, reply_chars=500)
    try:
        list(client.chat.completions.create(model="simulated", messages=QUESTION, stream=True))
    except openai.APIError as error:
        assert "connection to the AI service failed" in str(error), error
    else:
        raise AssertionError("a stream that broke off looks whole")
    behave()


def tried_again():
    """A 429 tells when to come again; the client obeys and succeeds."""
    behave(status=429, retry_after=3)
    try:
        client.chat.completions.create(model="simulated", messages=QUESTION)
    except openai.RateLimitError as error:
        assert 0 < int(error.response.headers["retry-after-ms"]) <= 4000, error.response.headers
    else:
        raise AssertionError("a 429 was to come")
    behave()
    patient = client.with_options(max_retries=5).chat.completions.with_raw_response
    answer = patient.create(model="simulated", messages=QUESTION)
    assert answer.retries_taken >= 1 and answer.status_code == 200, answer.retries_taken


for part in [whole, streamed, tools, structured, embedded, refused, broken_off, tried_again]:
    part()
    print(part.__name__, "ok")

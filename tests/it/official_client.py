"""Drives both simulators with the vendors' own clients; exits 0 when everything is as they expect.

Usage: official_client.py ZENDESK_URL APP_ID KEY_ID KEY_SECRET AI_URL AI_KEY
"""

import json
import signal
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anthropic
import openai
import sunshine_conversations_client as sunco
from sunshine_conversations_client.model import (
    accept_control_body,
    activity_post,
    conversation_create_body,
    conversation_create_event,
    conversation_message_event,
    conversation_postback_event,
    message_post,
    offer_control_body,
    page,
    pass_control_body,
    release_control_body,
    switchboard_accept_control,
    switchboard_offer_control,
    switchboard_pass_control,
    switchboard_release_control,
    user_merge_event,
    user_remove_event,
)

MODELS = {
    "conversation:message": conversation_message_event.ConversationMessageEvent,
    "conversation:create": conversation_create_event.ConversationCreateEvent,
    "conversation:postback": conversation_postback_event.ConversationPostbackEvent,
    "switchboard:passControl": switchboard_pass_control.SwitchboardPassControl,
    "switchboard:offerControl": switchboard_offer_control.SwitchboardOfferControl,
    "switchboard:acceptControl": switchboard_accept_control.SwitchboardAcceptControl,
    "switchboard:releaseControl": switchboard_release_control.SwitchboardReleaseControl,
    "user:merge": user_merge_event.UserMergeEvent,
    "user:remove": user_remove_event.UserRemoveEvent,
}
DEADLINE_S = 60
QUIET_PROXIES = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Hooks:
    """Receives the simulator's webhooks and keeps their bodies."""

    def __init__(self):
        self.bodies = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                length = int(self.headers["Content-Length"])
                bodies.append(json.loads(self.rfile.read(length)))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}/hook"

    def events(self):
        return [event for body in list(self.bodies) for event in body["events"]]

    def wait_for(self, kinds):
        deadline = time.monotonic() + 10
        while not kinds <= {event["type"] for event in self.events()}:
            assert time.monotonic() < deadline, f"only {[event['type'] for event in self.events()]}"
            time.sleep(0.01)


def sim(base, method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{base}/sim/{path}", data=data, method=method)
    with QUIET_PROXIES.open(request, timeout=10) as answer:
        return json.load(answer)


def refused(status, call):
    """The call must fail with this status and an error in Zendesk's shape."""
    try:
        call()
    except sunco.ApiException as error:
        assert error.status == status, f"{error.status} instead of {status}: {error.body}"
        problems = json.loads(error.body)["errors"]
        assert problems[0]["code"] and problems[0]["title"], error.body
        return
    raise AssertionError(f"no error, {status} was expected")


def text_post(text, **more):
    body = {"author": {"type": "business"}, "content": {"type": "text", "text": text}, **more}
    return message_post.MessagePost.from_dict(body)


def conversation_and_messages(client, app, base):
    conversations, messages = sunco.ConversationsApi(client), sunco.MessagesApi(client)
    body = {"type": "personal", "participants": [{"userId": "0123456789abcdef01234567"}]}
    created = conversations.create_conversation(app, conversation_create_body.ConversationCreateBody.from_dict(body))
    conversation = created.conversation.id
    posted = messages.post_message(app, conversation, text_post("hello", metadata={"tidegate_ids": "a"})).messages[0]
    assert posted.content.actual_instance.text == "hello" and posted.metadata == {"tidegate_ids": "a"}
    for number in range(120):
        sim(base, "POST", "say", {"conversation": conversation, "text": f"m{number}"})
    newest = messages.list_messages(app, conversation)
    assert len(newest.messages) == 100 and newest.meta.has_more, newest.meta
    older = messages.list_messages(app, conversation, page=page.Page(before=newest.meta.before_cursor))
    assert len(older.messages) == 21 and not older.meta.has_more, len(older.messages)
    assert older.messages[0].id == posted.id
    shown = conversations.get_conversation(app, conversation).conversation
    assert shown.active_switchboard_integration.integration_type == "custom", shown
    activity = {"author": {"type": "business"}, "type": "typing:start"}
    sunco.ActivitiesApi(client).post_activity(app, conversation, activity_post.ActivityPost.from_dict(activity))
    return conversation


def control(client, app, conversation):
    switchboard = sunco.SwitchboardActionsApi(client)
    conversations = sunco.ConversationsApi(client)

    def active():
        now = conversations.get_conversation(app, conversation).conversation.active_switchboard_integration
        return now.integration_type if now else None

    passing = pass_control_body.PassControlBody(switchboardIntegration="zd:agentWorkspace", metadata={"a": "b"})
    switchboard.pass_control(app, conversation, passing)
    assert active() == "zd:agentWorkspace"
    offer = offer_control_body.OfferControlBody(switchboardIntegration="custom")
    switchboard.offer_control(app, conversation, offer)
    accept = accept_control_body.AcceptControlBody()
    switchboard.accept_control(app, conversation, accept)
    assert active() == "custom"
    refused(403, lambda: switchboard.accept_control(app, conversation, accept))
    switchboard.release_control(app, conversation, release_control_body.ReleaseControlBody())
    assert active() is None
    unknown = pass_control_body.PassControlBody(switchboardIntegration="nobody")
    refused(404, lambda: switchboard.pass_control(app, conversation, unknown))


def errors(client, wrong_client, app, conversation, base):
    messages = sunco.MessagesApi(client)
    refused(401, lambda: sunco.MessagesApi(wrong_client).post_message(app, conversation, text_post("x")))
    refused(404, lambda: messages.post_message(app, "0" * 24, text_post("x")))
    refused(404, lambda: messages.post_message("other", conversation, text_post("x")))
    refused(400, lambda: messages.post_message(app, conversation, text_post("x", metadata={"a": "x" * 5000})))
    sim(base, "PATCH", "behaviour", {"throttle": {"requests": 0, "per_ms": 5000}})
    try:
        messages.post_message(app, conversation, text_post("x"))
        raise AssertionError("no 429")
    except sunco.ApiException as error:
        assert error.status == 429 and error.headers["Retry-After"] == "5", error
    sim(base, "PATCH", "behaviour", {"throttle": None, "down": True})
    refused(503, lambda: messages.post_message(app, conversation, text_post("x")))
    sim(base, "PATCH", "behaviour", {"down": False})


def webhooks(hooks, conversation, base):
    sim(base, "POST", "postback", {"conversation": conversation, "payload": "SHOW"})
    sim(base, "POST", "agent", {"conversation": conversation, "text": "a human"})
    sim(base, "POST", "say", {"conversation": "second", "text": "hi"})
    sim(base, "POST", "merge", {"surviving": conversation, "discarded": "second"})
    sim(base, "POST", "remove-user", {"conversation": conversation})
    hooks.wait_for(set(MODELS))
    for event in hooks.events():
        model = MODELS[event["type"]].from_dict(event)
        assert model.id == event["id"] and model.created_at == event["createdAt"], event
        if event["type"] == "conversation:message":
            message = event["payload"]["message"]
            text = model.payload.message.content.actual_instance.text
            assert (model.payload.message.id, text) == (message["id"], message["content"]["text"]), event


def ai(url, key):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=10)
    asked = [{"role": "user", "content": "hi [ref:0000000a]"}]
    answer = client.chat.completions.create(model="m", messages=asked)
    assert answer.choices[0].message.content == "Answer to [ref:0000000a]" and answer.usage.total_tokens > 0
    stream = client.chat.completions.create(
        model="m", messages=asked, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == "Answer to [ref:0000000a]" and chunks[-1].usage.total_tokens > 0, said
    tool = {"type": "function", "function": {"name": "to_human", "parameters": {"type": "object", "properties": {}}}}
    handed = client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "[[ai:handoff]]"}], tools=[tool]
    )
    assert handed.choices[0].message.tool_calls[0].function.name == "to_human"
    assert len(client.embeddings.create(model="e", input=["a", "b"]).data[1].embedding) == 8
    assert client.models.list().data[0].id
    azure(url, key, asked)
    claude(url, key, asked)
    sim(url, "PATCH", "behaviour", {"quota": [{"requests": 0, "per_ms": 3000}]})
    try:
        client.chat.completions.create(model="m", messages=asked)
        raise AssertionError("no 429")
    except openai.RateLimitError as error:
        assert error.response.headers["retry-after"] == "3" and error.code == "rate_limit_exceeded", error
    try:
        client.with_options(api_key="wrong").models.list()
        raise AssertionError("no 401")
    except openai.AuthenticationError:
        pass


def azure(url, key, asked):
    client = openai.AzureOpenAI(
        azure_endpoint=url, api_key=key, api_version="2024-10-21", max_retries=0, timeout=10
    )
    answer = client.chat.completions.create(model="deployed", messages=asked)
    assert answer.choices[0].message.content == "Answer to [ref:0000000a]" and answer.model == "deployed", answer
    assert len(client.embeddings.create(model="e", input=["a", "b"]).data[1].embedding) == 8


def claude(url, key, asked):
    client = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, timeout=10)
    tool = {"name": "to_human", "input_schema": {"type": "object", "properties": {}}}
    answer = client.messages.create(model="m", max_tokens=9, system="be kind", messages=asked)
    assert answer.content[0].text == "Answer to [ref:0000000a]" and answer.stop_reason == "end_turn", answer
    assert answer.usage.input_tokens > 0 and answer.usage.output_tokens > 0, answer
    with client.messages.stream(model="m", max_tokens=9, messages=asked) as stream:
        assert "".join(stream.text_stream) == "Answer to [ref:0000000a]"
        assert stream.get_final_message().usage.output_tokens == answer.usage.output_tokens
    handing = [{"role": "user", "content": "[[ai:handoff]]"}]
    with client.messages.stream(model="m", max_tokens=9, messages=handing, tools=[tool]) as stream:
        handed = stream.get_final_message()
    assert (handed.content[0].name, handed.content[0].input, handed.stop_reason) == ("to_human", {}, "tool_use"), handed
    for text, refused in [("[[ai:529]]", anthropic.APIStatusError), ("[[ai:429]]", anthropic.RateLimitError)]:
        try:
            client.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": text}])
            raise AssertionError(text)
        except refused as error:
            assert error.body["error"]["type"] in ("overloaded_error", "rate_limit_error"), error.body
    sim(url, "PATCH", "behaviour", {"stream_error_after": 4})
    try:
        with client.messages.stream(model="m", max_tokens=9, messages=asked) as stream:
            stream.until_done()
        raise AssertionError("no error")
    except anthropic.APIStatusError as error:
        assert error.body["error"]["type"] == "overloaded_error", error.body
    sim(url, "PATCH", "behaviour", {"stream_error_after": 0})


def main():
    signal.alarm(DEADLINE_S)
    base, app, key_id, key_secret, ai_url, ai_key = sys.argv[1:]
    hooks = Hooks()
    sim(base, "PUT", "target", {"url": hooks.url})

    def client(secret):
        return sunco.ApiClient(sunco.Configuration(host=f"{base}/sc", username=key_id, password=secret))

    right = client(key_secret)
    conversation = conversation_and_messages(right, app, base)
    control(right, app, conversation)
    errors(right, client("wrong"), app, conversation, base)
    webhooks(hooks, conversation, base)
    ai(ai_url, ai_key)


if __name__ == "__main__":
    main()

// Drives the gateway with OpenAI's own client for JavaScript, unchanged but for the base URL.
// Usage: node gateway_client.mjs BASE_URL KEY SIMULATOR_URL FOLDER, in whose node_modules the client is
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const [baseURL, apiKey, simulator, folder] = process.argv.slice(2);
const { OpenAI } = createRequire(`${folder}/`)('openai');
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 30_000 });
const messages = [{ role: 'user', content: 'what is a tide?' }];
const tools = [{ type: 'function', function: { name: 'moon', parameters: { type: 'object', properties: {} } } }];

const behave = (behaviour) =>
  fetch(`${simulator}/sim/behaviour`, {
    method: 'PUT',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(behaviour),
  });

const parts = {
  async whole() {
    const { data, response } = await client.chat.completions.create({ model: 'simulated', messages }).withResponse();
    assert.match(data.choices[0].message.content, /^Answer to/);
    assert.equal(response.headers.get('x-tidegate-service'), 'primary');
  },
  async streamed() {
    let text = '';
    let usage;
    const options = { model: 'simulated', messages, stream: true, stream_options: { include_usage: true } };
    for await (const chunk of await client.chat.completions.create(options)) {
      usage = chunk.usage ?? usage;
      text += chunk.choices[0]?.delta?.content ?? '';
    }
    assert.match(text, /^Answer to/);
    assert.ok(usage.completion_tokens > 0);
  },
  async tools() {
    const question = [{ role: 'user', content: '[[ai:handoff]] where is it?' }];
    const answer = await client.chat.completions.create({ model: 'simulated', messages: question, tools });
    assert.equal(answer.choices[0].message.tool_calls[0].function.name, 'moon');
    const names = [];
    for await (const part of await client.chat.completions.create({ model: 'simulated', messages: question, tools, stream: true })) {
      names.push(...(part.choices[0]?.delta?.tool_calls ?? []).map((call) => call.function.name));
    }
    assert.deepEqual(names, ['moon']);
    const { message } = answer.choices[0];
    const result = { role: 'tool', tool_call_id: message.tool_calls[0].id, content: 'behind a cloud' };
    const told = [...question, message, result];
    const end = await client.chat.completions.create({ model: 'simulated', messages: told, tools });
    assert.match(end.choices[0].message.content, /^Answer to/);
  },
  async structured() {
    const schema = { type: 'object', properties: { answer: { type: 'string' } }, required: ['answer'], additionalProperties: false };
    const format = { type: 'json_schema', json_schema: { name: 'tide', strict: true, schema } };
    const answer = await client.chat.completions.parse({ model: 'simulated', messages, response_format: format });
    assert.equal(typeof JSON.parse(answer.choices[0].message.content).answer, 'string');
  },
  async embedded() {
    const answer = await client.embeddings.create({ model: 'simulated', input: ['a', 'b'], dimensions: 16 });
    assert.deepEqual(answer.data.map((item) => item.embedding.length), [16, 16]);
    assert.deepEqual((await client.models.list()).data.map((model) => model.id), ['simulated']);
  },
  async refused() {
    const stranger = new OpenAI({ baseURL, apiKey: 'wrong', maxRetries: 0 });
    await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
    await assert.rejects(client.chat.completions.create({ model: 'unknown', messages }), OpenAI.NotFoundError);
    await assert.rejects(client.chat.completions.create({ model: 'simulated', messages: [] }), OpenAI.BadRequestError);
  },
  async brokenOff() {
    await behave({ break_stream_after: 2, reply_chars: 500 });
    const read = async () => {
      for await (const _ of await client.chat.completions.create({ model: 'simulated', messages, stream: true }));
    };
    await assert.rejects(read(), OpenAI.APIError);
    await behave({});
  },
  async triedAgain() {
    await behave({ status: 429, retry_after: 3 });
    await assert.rejects(client.chat.completions.create({ model: 'simulated', messages }), OpenAI.RateLimitError);
    await behave({});
    const statuses = [];
    const counting = async (...request) => {
      const response = await fetch(...request);
      statuses.push(response.status);
      return response;
    };
    const patient = new OpenAI({ baseURL, apiKey, maxRetries: 5, fetch: counting });
    await patient.chat.completions.create({ model: 'simulated', messages });
    assert.ok(statuses.length > 1 && statuses.at(-1) === 200 && statuses[0] === 429, statuses);
  },
};

for (const [name, part] of Object.entries(parts)) {
  await part();
  console.log(name, 'ok');
}

// What the programs for Node.js share; ../python/common.py says what is spoken on stdin and stdout.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

export const INPUTS = JSON.parse(readFileSync(new URL("../inputs.json", import.meta.url), "utf8"));
export const MESSAGES = [{ role: "user", content: INPUTS.question }];
export const TOOL_MESSAGES = [{ role: "user", content: INPUTS.tool_question }];
// Tool schemas of JavaScript's libraries say which JSON Schema they mean.
export const SCHEMA = { $schema: "http://json-schema.org/draft-07/schema#", ...INPUTS.schema };
export const TOOL = {
  type: "function",
  function: { name: INPUTS.tool_name, description: INPUTS.tool_description, parameters: SCHEMA },
};

export async function failure(call) {
  try {
    return { kind: [], status: null, message: JSON.stringify(await call()) ?? "" };
  } catch (error) {
    const kind = [error.name];
    for (let one = error.constructor; one?.name; one = Object.getPrototypeOf(one)) kind.push(one.name);
    return { kind, status: error.status ?? error.status_code ?? null, message: error.message };
  }
}

export async function collect(iterable) {
  const found = [];
  for await (const one of iterable) found.push(one);
  return found;
}

// What a node says no to: `ask(target, fields, options)` sends a request, `connect` makes the package's client.
export async function refusals(target, ask, connect) {
  return {
    unknown: await failure(() => ask({ ...target, model: "no-such-model" })),
    unknown_stream: await failure(() => ask({ ...target, model: "no-such-model" }, { stream: true })),
    bad: await failure(() => ask(target, { messages: [] })),
    key: await failure(() => ask({ ...target, key: "sk-wrong" })),
    retrieve: await failure(() => connect(target).models.retrieve("no/such")),
  };
}

export async function listed(target, connect) {
  const client = connect(target);
  const ids = (await collect(client.models.list())).map((one) => one.id);
  return { ids, retrieved: (await client.models.retrieve(target.model)).id };
}

export async function main(name, scenarios) {
  const about = new URL(`node_modules/${name}/package.json`, import.meta.url);
  const say = (data) => process.stdout.write(`${JSON.stringify(data)}\n`);
  const { version } = JSON.parse(readFileSync(about, "utf8"));
  say({ package: `npm ${name} ${version}`, scenarios: Object.keys(scenarios) });
  for await (const line of createInterface({ input: process.stdin })) {
    const { scenario, ...target } = JSON.parse(line);
    try {
      say({ facts: await scenarios[scenario](target) });
    } catch (error) {
      say({ error: String(error?.stack ?? error) });
    }
  }
}

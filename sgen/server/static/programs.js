// Programs as data (the IR that POST /v1/programs takes): a way to write them, and an example.

export const lit = (text) => ({ type: "lit", text });
export const arg = (name) => ({ type: "arg", name, text: true });
export const ref = (variable) => ({ type: "var", var: variable });

export const text = (branch, ...pieces) => ({ type: "text", branch, pieces });
export const gen = (branch, variable, name, params, grammar = null, value = "text") => ({
  type: "gen", branch, var: variable, name, params, grammar, value,
});
export const select = (branch, variable, name, options) => ({
  type: "select", branch, var: variable, name, options, by: "tree",
});
export const message = (branch, role, ...nodes) => [
  { type: "role_start", branch, role }, ...nodes, { type: "role_end", branch },
];

export const program = (name, params, nodes, result) => ({ name, params, nodes, result });

// One generation after a prompt of plain text.
export function completion(prompt, params, grammar = null) {
  const nodes = [text(0, lit(prompt)), gen(0, 0, "text", params, grammar)];
  return program("prompt", [], nodes, { type: "value_of", var: 0 });
}

// The next message of a chat; `turns` are {role, text}.
export function reply(turns, params, grammar = null) {
  const nodes = turns.flatMap((turn) => message(0, turn.role, text(0, lit(turn.text))));
  nodes.push(...message(0, "assistant", gen(0, 0, "reply", params, grammar)));
  return program("chat", [], nodes, { type: "value_of", var: 0 });
}

const idea = (branch, variable, way) =>
  message(branch, "assistant", text(branch, lit(`${way}: `)),
    gen(branch, variable, "idea", { max_tokens: 48, temperature: 0.7, seed: branch, stop: ["\n"] }));

const VERDICT = JSON.stringify({
  type: "object",
  properties: {
    team: { enum: ["billing", "accounts", "infrastructure"] },
    urgent: { type: "boolean" },
    reply: { type: "string", maxLength: 120 },
  },
  required: ["team", "urgent", "reply"],
  additionalProperties: false,
});

// A choice, three ideas side by side, and a JSON object that reads all of them.
export const triage = {
  program: program("triage", ["ticket"], [
    ...message(0, "system", text(0, lit("You triage support tickets. Answer briefly."))),
    ...message(0, "user", text(0, arg("ticket"))),
    ...message(0, "assistant",
      text(0, lit("Severity: ")), select(0, 0, "severity", ["low", "medium", "high"])),
    ...message(0, "user", text(0, lit("Suggest one next step, in one sentence."))),
    { type: "fork", branch: 0, children: [1, 2, 3] },
    ...idea(1, 1, "For the customer"), ...idea(2, 2, "For the engineer"),
    ...idea(3, 3, "For the manager"),
    { type: "join", branch: 0, children: [1, 2, 3] },
    ...message(0, "assistant", text(0, lit("1. "), ref(1), lit("\n2. "), ref(2), lit("\n3. "),
      ref(3))),
    ...message(0, "user", text(0, lit("Now answer the ticket as JSON."))),
    ...message(0, "assistant", gen(0, 4, "verdict", { max_tokens: 96 },
      { kind: "json_schema", source: VERDICT }, "json")),
  ], { type: "dict_of", items: {
    severity: { type: "value_of", var: 0 }, verdict: { type: "value_of", var: 4 },
  } }),
  args: { ticket: "Since this morning nobody in our office can log in!" },
};

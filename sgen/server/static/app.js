// The page: tabs, forms, and what each of them runs.  All of it runs as programs, since their
// events say how each token came.

import { json, key, runProgram } from "./api.js";
import { completion, reply, triage } from "./programs.js";
import { Figures, Tree, appendTokens, element } from "./view.js";

const $ = (id) => document.getElementById(id);
const KINDS = {
  json_schema: JSON.stringify({
    type: "object",
    properties: {
      name: { type: "string", maxLength: 40 },
      age: { type: "integer", minimum: 18, maximum: 99 },
      job: { enum: ["pilot", "crane driver", "customs officer"] },
      languages: { type: "array", items: { type: "string", maxLength: 20 }, maxItems: 3 },
    },
    required: ["name", "age", "job", "languages"],
    additionalProperties: false,
  }, null, 2),
  regex: "[A-Z][a-z]{2,12} [A-Z][a-z]{2,12}, aged [1-9][0-9]",
  choices: '["pilot", "crane driver", "customs officer"]',
  gbnf: 'root ::= name ", " job\nname ::= [A-Z] [a-z]{2,12}\njob ::= "pilot" | "crane driver"',
  lark: 'start: NAME ", " job\njob: "pilot" | "crane driver"\nNAME: /[A-Z][a-z]{2,12}/',
};

// --- tabs --------------------------------------------------------------------------------------

const tabs = [...document.querySelectorAll("[role=tab]")];

function show(name) {
  for (const tab of tabs) {
    const chosen = tab.dataset.tab === name;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    $(`panel-${tab.dataset.tab}`).hidden = !chosen;
  }
  history.replaceState(null, "", `?tab=${name}`);
}

for (const [place, tab] of tabs.entries()) {
  tab.addEventListener("click", () => show(tab.dataset.tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: tabs.length - 1 }[event.key];
    if (!step) return;
    const next = tabs[(place + step) % tabs.length];
    show(next.dataset.tab);
    next.focus();
  });
}

// --- forms -------------------------------------------------------------------------------------

// A form, where it shows what comes of it, and the run that goes on.
class Form {
  constructor(form, make) {
    this.form = form;
    this.panel = form.closest(".panel");
    this.output = this.panel.querySelector(".output");
    this.make = make;
    form.querySelector(".options").append($("options").content.cloneNode(true));
    this.output.append($("output").content.cloneNode(true));
    this.result = this.output.querySelector(".result");
    this.figures = this.output.querySelector(".figures");
    this.error = this.output.querySelector(".error");
    this.stop = form.querySelector(".stop");
    this.run = form.querySelector(".run");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.start();
    });
    form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.start();
    });
    this.stop.addEventListener("click", () => this.abort.abort());
  }

  get params() {
    const number = (name) => Number(this.form.elements[name].value);
    return {
      max_tokens: number("max_tokens") || null,
      temperature: number("temperature"),
      seed: number("seed"),
    };
  }

  fail(error) {
    this.error.hidden = false;
    this.error.textContent = error.param ? `${error.param}: ${error.message}` : error.message;
    if (error.status === 401) $("key-label").hidden = false;
  }

  async start() {
    if (this.run.disabled) return;
    this.abort = new AbortController();
    this.error.hidden = true;
    this.run.disabled = true;
    this.stop.disabled = false;
    this.panel.dataset.state = "running";
    const figures = new Figures(this.figures);
    try {
      const { program, args = {}, onEvent, onDone } = this.make(this);
      const done = await runProgram(program, args, this.abort.signal, (event) => {
        figures.take(event);
        onEvent(event);
      });
      if (onDone) await onDone(done, figures);
      this.panel.dataset.state = "done";
    } catch (error) {
      const stopped = error.name === "AbortError";
      if (!stopped) this.fail(error);
      this.panel.dataset.state = stopped ? "stopped" : "failed";
    } finally {
      this.run.disabled = false;
      this.stop.disabled = true;
    }
  }
}

const intoText = (box) => (event) => {
  if (event.type === "var.delta") appendTokens(box, event.delta, event.tokens);
};

// The prompt's first `count` tokens came from the cache: which of its text is that?
async function markCached(box, prompt, count) {
  if (!count) return;
  const { tokens } = await json("/tokenize", { prompt });
  const { prompt: head } = await json("/detokenize", { tokens: tokens.slice(0, count) });
  if (!prompt.startsWith(head)) return;
  const part = element("span", "cached", head);
  part.title = `${count} tokens from the cache`;
  box.replaceChildren(part, prompt.slice(head.length));
}

function runPrompt(form) {
  const prompt = $("prompt-text").value;
  const shown = element("span", "written", prompt);
  const box = element("div", "text");
  box.append(shown);
  form.result.replaceChildren(box);
  return {
    program: completion(prompt, form.params),
    onEvent: intoText(box),
    onDone: (_, figures) => markCached(shown, prompt, figures.cached).catch(() => {}),
  };
}

let turns = [];

function turn(box, role, textContent) {
  const shown = element("div", "turn");
  const said = element("div", "text", textContent);
  shown.append(element("b", "", role), said);
  box.append(shown);
  return said;
}

function runChat(form) {
  const said = $("chat-text").value;
  const system = $("chat-system").value;
  if (!turns.length) form.result.replaceChildren();
  const before = turns;
  turns = [...turns, { role: "user", text: said }];
  turn(form.result, "user", said);
  const box = turn(form.result, "assistant", "");
  const head = system ? [{ role: "system", text: system }] : [];
  const all = [...head, ...turns];
  turns = before; // what fails or is stopped was not said
  return {
    program: reply(all, form.params),
    onEvent: intoText(box),
    onDone: (done) => {
      turns = [...before, { role: "user", text: said }, { role: "assistant", text: done.result }];
      $("chat-text").value = "";
    },
  };
}

function clearChat() {
  turns = [];
  forms.chat.result.replaceChildren(element("p", "empty", "Nothing was run yet."));
}

const grammar = () => ({ kind: $("schema-kind").value, source: $("schema-source").value });

function runSchema(form) {
  const box = element("div", "text code");
  form.result.replaceChildren(box);
  const turns = [{ role: "user", text: $("schema-text").value }];
  return { program: reply(turns, form.params, grammar()), onEvent: intoText(box) };
}

function parsed(id, what) {
  try {
    return JSON.parse($(id).value);
  } catch (error) {
    throw new Error(`${what}: ${error.message}`);
  }
}

function runTree(form) {
  const program = parsed("program-ir", "the program");
  const args = parsed("program-args", "the arguments");
  const box = element("div", "tree");
  form.result.replaceChildren(box);
  const tree = new Tree(box);
  return {
    program, args,
    onEvent: (event) => tree.take(event),
    onDone: (done) => {
      form.result.append(element("pre", "answer", JSON.stringify(done.result, null, 2)));
    },
  };
}

const make = { prompt: runPrompt, chat: runChat, schema: runSchema, program: runTree };
const forms = {};
for (const form of document.querySelectorAll("form")) {
  forms[form.dataset.run] = new Form(form, make[form.dataset.run]);
}

// --- the grammar, checked while it is written --------------------------------------------------

let checking = null;
let pause = 0;

function refusal({ message, hint, pointer, line, column }) {
  const place = line ? `line ${line}, column ${column}` : "";
  const where = [pointer ? `at ${pointer}` : "", place].filter(Boolean).join(", ");
  return [where ? `${message}\n${where}` : message, hint].filter(Boolean).join("\n");
}

async function check() {
  if (checking) checking.abort();
  checking = new AbortController();
  const status = $("schema-check");
  try {
    const found = await json("/v1/grammars/check", grammar(), checking.signal);
    status.className = found.ok ? "check ok" : "check bad";
    status.textContent = found.ok
      ? `ok: the shortest output takes ${found.min_tokens} tokens` : refusal(found.error);
  } catch (error) {
    if (error.name === "AbortError") return;
    status.className = "check bad";
    status.textContent = error.message;
  }
}

function checkSoon() {
  clearTimeout(pause);
  pause = setTimeout(check, 250);
}

$("schema-source").addEventListener("input", checkSoon);
$("schema-kind").addEventListener("change", () => {
  $("schema-source").value = KINDS[$("schema-kind").value];
  check();
});

// --- start -------------------------------------------------------------------------------------

async function connect() {
  try {
    const models = await json("/v1/models");
    $("model").textContent = models.data[0].id;
    check();
  } catch (error) {
    $("model").textContent = error.message;
    if (error.status === 401) $("key-label").hidden = false;
  }
}

$("chat-clear").addEventListener("click", clearChat);
$("key").value = key.get();
$("key").addEventListener("change", () => {
  key.set($("key").value.trim());
  connect();
});
$("schema-source").value = KINDS.json_schema;
$("program-ir").value = JSON.stringify(triage.program, null, 1);
$("program-args").value = JSON.stringify(triage.args, null, 1);
for (const option of forms.program.form.querySelectorAll("[data-option]")) option.remove();
forms.schema.form.elements.max_tokens.value = 120;

const wanted = new URLSearchParams(location.search).get("tab");
show(wanted in forms ? wanted : "prompt");
connect();

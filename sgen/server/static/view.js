// What is drawn while a program runs: tokens coloured by how they came, figures, the fork tree.

export function element(tag, className = "", textContent = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (textContent) made.textContent = textContent;
  return made;
}

// Adds generated text to `parent`.  A piece of several tokens has the look of the freest of them.
export function appendTokens(parent, delta, ways) {
  const way = ["sampled", "masked", "forced"].find((w) => ways.includes(w)) || "chosen";
  const token = element("span", `token ${way}`, delta);
  token.title = way === "chosen" ? "option chosen by its score"
    : `${ways.length} token${ways.length === 1 ? "" : "s"}, ${way}`;
  parent.append(token);
}

// Times and counts of a run, shown in `box`.
export class Figures {
  constructor(box) {
    this.box = box;
    this.start = performance.now();
    this.first = this.last = 0;
    this.counts = { sampled: 0, masked: 0, forced: 0 };
    this.prompt = this.cached = this.before = 0;
    this.scored = 0;
    this.show();
  }

  take(event) {
    if (event.type === "var.delta" && event.tokens.length) {
      this.last = performance.now();
      if (!this.first) {
        this.first = this.last;
        this.before = event.tokens.length;
      }
      for (const way of event.tokens) this.counts[way] += 1;
    } else if (event.type === "var.end") {
      this.prompt += event.usage.prompt_tokens;
      this.cached += event.usage.cached_tokens;
    }
    this.show();
  }

  get tokens() {
    return this.counts.sampled + this.counts.masked + this.counts.forced;
  }

  show() {
    const seconds = (this.last - this.first) / 1000;
    const rate = seconds > 0 ? ((this.tokens - this.before) / seconds).toFixed(1) : "–";
    const share = this.prompt ? ` (${Math.round((100 * this.cached) / this.prompt)} %)` : "";
    const facts = [
      ["first token", this.first ? `${Math.round(this.first - this.start)} ms` : "–"],
      ["speed", `${rate} tok/s`],
      ["generated", `${this.tokens} tokens`],
      ["prompt from the cache", this.prompt ? `${this.cached} of ${this.prompt}${share}` : "–"],
    ];
    this.box.replaceChildren(
      ...facts.map(([name, value]) => {
        const fact = element("div", "fact");
        fact.append(element("dt", "", name), element("dd", "", value));
        return fact;
      }), this.bar());
  }

  // What the run's tokens were, as one bar: those of the prompts, and those generated.
  bar() {
    const bar = element("div", "bar");
    bar.setAttribute("aria-hidden", "true");
    const parts = { cached: this.cached, computed: this.prompt - this.cached, ...this.counts };
    for (const [way, count] of Object.entries(parts)) {
      if (!count) continue;
      const part = element("span", way);
      part.style.flexGrow = count;
      part.title = `${count} ${way}`;
      bar.append(part);
    }
    return bar;
  }
}

// The fork tree of a run, drawn into `box` as its events come.  A branch is a column of segments;
// a fork puts its children's columns side by side under the segment that it ends.
export class Tree {
  constructor(box) {
    this.branches = new Map();
    const root = this.branch([], "root");
    box.replaceChildren(root.column);
  }

  branch(path, label) {
    const column = element("div", "branch");
    const made = { column, label, segment: null, text: null, card: null };
    this.branches.set(path.join("."), made);
    this.segment(made);
    return made;
  }

  segment(branch) {
    branch.card = element("section", "segment");
    const head = element("header", "", branch.label);
    branch.state = element("span", "state");
    head.append(branch.state);
    branch.text = element("div", "text");
    branch.card.append(head, branch.text);
    branch.column.append(branch.card);
  }

  take(event) {
    const branch = this.branches.get((event.branch || []).join("."));
    switch (event.type) {
      case "text":
        branch.text.append(element("span", "written", event.delta));
        break;
      case "role":
        if (event.role) branch.text.append(element("b", "role", event.role));
        else branch.text.append(element("br"));
        break;
      case "var.start":
        branch.card.classList.add("running");
        branch.state.textContent = event.name;
        break;
      case "var.delta":
        appendTokens(branch.text, event.delta, event.tokens);
        break;
      case "var.end":
        branch.card.classList.remove("running");
        branch.state.textContent = this.usage(event.usage);
        break;
      case "fork":
        this.fork(branch, event.branches);
        break;
      case "join":
        this.join(branch, event.branches);
        break;
      case "cancel":
        branch.card.classList.replace("running", "stopped");
        branch.state.textContent = "cancelled";
        break;
      case "error":
        if (event.name || event.branch.length) this.fail(branch, event.error.message);
        break;
      case "done":
        for (const { card } of this.branches.values()) card.classList.remove("running");
    }
  }

  usage({ prompt_tokens: prompt, cached_tokens: cached, completion_tokens: made }) {
    const shares = prompt ? `, ${cached} of ${prompt} cached` : "";
    return made ? `${made} tokens${shares}` : `scored${shares}`;
  }

  fork(branch, paths) {
    const row = element("div", "children");
    branch.column.append(row);
    for (const path of paths) row.append(this.branch(path, `branch ${path.join(".")}`).column);
    branch.row = row;
  }

  join(branch, paths) {
    for (const path of paths) this.branches.get(path.join(".")).card.classList.add("joined");
    branch.column.append(element("div", "join", `joined ${paths.length}`));
    this.segment(branch);
  }

  fail(branch, message) {
    branch.card.classList.remove("running");
    branch.card.classList.add("failed");
    branch.state.textContent = "failed";
    branch.text.append(element("div", "error", message));
  }
}

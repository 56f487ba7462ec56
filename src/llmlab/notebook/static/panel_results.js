// What was asked for by a click, newest first.

class ResultsSection {
  constructor(view) {
    this.view = view;
    this.model = view.model;
    this.boxes = new Map(); // id → box
    this.node = element("section", "llmlab-p-section llmlab-p-results");
    this.node.setAttribute("aria-label", "results");
  }

  refresh() {
    const jobs = this.model.get("results");
    this.node.hidden = !jobs.length;
    for (const [id, box] of this.boxes) {
      if (jobs.some((job) => job.id === id)) continue;
      box.node.remove();
      this.boxes.delete(id);
    }
    jobs.forEach((job, i) => {
      let box = this.boxes.get(job.id);
      if (!box) this.boxes.set(job.id, (box = new ResultBox(this.view, job)));
      if (this.node.children[i] !== box.node) this.node.insertBefore(box.node, this.node.children[i] ?? null);
      box.refresh(job);
    });
  }
}

class ResultBox {
  constructor(view, job) {
    this.view = view;
    this.node = element("article", "llmlab-p-result");
    this.node.dataset.verb = job.verb;
    this.node.setAttribute("aria-label", `${job.verb} of ${job.server}`);
    const head = element("div", "llmlab-p-card-head");
    this.state = element("span", "llmlab-p-state");
    this.again = button("Again", () => view.send({ t: job.verb, server: job.server }), {
      kind: "llmlab-p-small",
      label: `${job.verb} ${job.server} again`,
    });
    this.close = button("Close", () => view.send({ t: "close", id: job.id }), {
      kind: "llmlab-p-small llmlab-p-close",
      label: `close ${job.verb} of ${job.server}`,
    });
    this.end = button("Finish now", () => view.send({ t: "cancel", id: job.id }), { kind: "llmlab-p-small" });
    const code = element("code", "llmlab-p-code", job.magic);
    code.title = "the line that does the same";
    head.append(code, this.state, this.again, this.end, this.close);
    this.body = element("div", "llmlab-p-body");
    this.node.append(head, this.body);
  }

  refresh(job) {
    const shown = JSON.stringify(job);
    if (shown === this.shown) return;
    this.shown = shown;
    const goes = job.state === "running";
    this.node.dataset.state = job.state;
    this.state.replaceChildren(marked(job.state, job.cancelling ? "ending…" : job.state));
    this.again.hidden = goes;
    this.end.hidden = !goes || !job.progress;
    this.end.disabled = job.cancelling;
    this.body.replaceChildren();
    if (job.error) this.body.append(errorBox(job.error));
    else if (job.state === "cancelled") this.body.append(problem("quiet", "It was ended before there was a result."));
    else {
      const held = element("div", `llmlab-p-html llmlab-p-html-${job.verb}`);
      held.innerHTML = goes ? job.progress : job.html; // a result's own HTML, in which everything is escaped
      if (job.verb === "logs" && !goes) {
        held.tabIndex = 0;
        held.setAttribute("aria-label", `log of ${job.server}`);
      }
      this.body.append(held);
      if (job.verb === "logs") held.scrollTop = held.scrollHeight;
    }
  }
}

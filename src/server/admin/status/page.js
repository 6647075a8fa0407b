"use strict";
// Shows the figures again every 5 s, and ends sessions. Without it the page shows the figures of its moment.
(() => {
  const find = (id) => document.getElementById(id);
  const [said, pause, ask] = ["said", "pause", "ask"].map(find);
  let isPaused = false;
  let chosen = null;

  const say = (text) => { if (said.textContent !== text) said.textContent = text; };

  const showButtons = () => document.querySelectorAll("[data-end]").forEach((button) => { button.hidden = false; });

  // Replaces what has changed. The focus stays at the element with the same id.
  const show = (page) => {
    for (const part of document.querySelectorAll("[data-live]")) {
      const next = page.getElementById(part.id);
      if (!next) continue;
      next.querySelectorAll("[data-end]").forEach((button) => { button.hidden = false; });
      if (next.innerHTML === part.innerHTML) continue;
      const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
      part.replaceChildren(...next.childNodes);
      if (focused) (find(focused) || find(part.id + "-title")).focus();
    }
  };

  const refresh = async () => {
    try {
      const answer = await fetch("/status", { headers: { Accept: "text/html" }, cache: "no-store" });
      if (!answer.ok) throw new Error(answer.status);
      show(new DOMParser().parseFromString(await answer.text(), "text/html"));
      if (said.dataset.lost) { delete said.dataset.lost; say(""); }
    } catch {
      said.dataset.lost = "yes";
      say("callgate does not answer: the figures are old.");
    }
  };

  const end = async (number) => {
    try {
      const answer = await fetch("/sessions/end", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ number }),
      });
      const done = await answer.json();
      if (!answer.ok) return say(`Session ${number} was not ended: ${done.message}`);
      const ended = done.ended.length + done.ended_in_old_processes;
      say(ended ? `Session ${number} has ended.` : `Session ${number} was over already.`);
    } catch {
      say(`Session ${number} was not ended: callgate does not answer.`);
    }
    find("sessions-title").focus();
    await refresh();
  };

  document.addEventListener("click", (click) => {
    const button = click.target.closest("[data-end]");
    if (!button) return;
    chosen = Number(button.dataset.end);
    find("question").textContent = `End session ${chosen} of ${button.dataset.of}? Its pages log out and its tunnels are cut.`;
    ask.showModal();
  });
  find("no").addEventListener("click", () => ask.close());
  find("yes").addEventListener("click", () => { ask.close(); end(chosen); });

  pause.hidden = false;
  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.textContent = isPaused ? "Go on" : "Pause";
    if (!isPaused) refresh();
  });

  showButtons();
  setInterval(() => {
    // A text that is being copied, and a question, stay as they are.
    if (!isPaused && !ask.open && !document.hidden && getSelection().isCollapsed) refresh();
  }, 5000);
})();

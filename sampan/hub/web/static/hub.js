// Search while typing, and copying: the page works without either.
"use strict";
for (const button of document.querySelectorAll("button[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.dataset.copy);
    const before = button.textContent;
    button.textContent = button.dataset.done;
    setTimeout(() => { button.textContent = before; }, 1500);
  });
}
const results = document.getElementById("results");
const input = document.querySelector("main form.find input, .top form.find input");
if (results && input) {
  let timer = 0, running = null;
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      if (running) running.abort();
      running = new AbortController();
      const query = new URLSearchParams({ q: input.value });
      try {
        const answer = await fetch("/search/results?" + query, { signal: running.signal });
        if (!answer.ok) return;
        results.innerHTML = await answer.text();
        history.replaceState(null, "", "/search?" + query);
      } catch (problem) {
        if (problem.name !== "AbortError") throw problem;
      }
    }, 150);
  });
}

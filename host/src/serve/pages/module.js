// The script adds to the pages: live parts, keys, questions before final changes, selection by ranges.
// Nothing here is needed: each page works without it.

const $ = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// -- live parts: read the page again when something happened, and put in the parts that differ ---------------------------------------

const source = document.body.dataset.live;
let reading = false, again = false, failures = 0;

/** What the pointer holds down: a click needs the same element at its beginning and at its end. */
let pressed = null;
addEventListener("pointerdown", (event) => { pressed = event.target; });
for (const kind of ["pointerup", "pointercancel"]) addEventListener(kind, () => { pressed = null; });

/** Whether a person is in the middle of something there. */
const isInUse = (part) =>
  part.contains(pressed) ||
  part.contains(document.activeElement) && document.activeElement.matches("input, select, textarea") ||
  all("input[type=checkbox]:checked", part).length > 0 ||
  $("[data-sure]", part) !== null ||
  !document.getSelection().isCollapsed && part.contains(document.getSelection().anchorNode);

/** Details that a person has opened, by their place. */
const opened = (part) => all("details", part).map((one) => one.open);

const NUMBERS = "td.number:not(:has(time)), .numbers b";

/** Rows that are new since the part was put there. */
const fresher = (part, fresh) => {
  const known = new Set(all("tr[data-row] a", part).map((link) => link.getAttribute("href")));
  return all("tr[data-row]", fresh).filter((row) => !known.has($("a", row)?.getAttribute("href"))).length;
};

/** Rows do not move under the pointer: a button says how many are new. */
const offer = (part, fresh) => {
  const count = fresher(part, fresh);
  $(".news", part)?.remove();
  if (!count) return;
  const button = document.createElement("button");
  button.className = "news";
  button.textContent = `${count} ${part.dataset.list}`;
  button.onclick = () => { button.remove(); put(part, fresh, true); };
  part.prepend(button);
};

/** What is put in when a part is not in use any more. */
const waiting = new Map();
setInterval(() => [...waiting].forEach(([part, fresh]) => put(part, fresh)), 500);

/** What tells a link or a button from its neighbours. */
const mark = (one) => one.getAttribute("href") ?? one.tagName + one.textContent;

const put = (part, fresh, now = false) => {
  waiting.delete(part);
  if (part.innerHTML === fresh.innerHTML) return;
  if (isInUse(part)) return waiting.set(part, fresh);
  if (!now && part.dataset.list && part.matches(":hover")) return offer(part, fresh);
  const open = opened(part);
  const current = $("tr[aria-current] a", part)?.getAttribute("href");
  const focused = part.contains(document.activeElement) ? mark(document.activeElement) : null;
  const log = $(".log", part), isAtEnd = log && log.scrollTop + log.clientHeight >= log.scrollHeight - 8, scrolled = log?.scrollTop;
  const before = new Map(all(NUMBERS, part).map((cell, n) => [n, cell.textContent]));
  part.replaceChildren(...fresh.childNodes);
  all("details", part).forEach((one, n) => { if (open[n] !== undefined) one.open = open[n]; });
  all(NUMBERS, part).forEach((cell, n) => { if (before.has(n) && before.get(n) !== cell.textContent) cell.classList.add("fresh"); });
  if (current) all("tr[data-row]", part).find((row) => $("a", row)?.getAttribute("href") === current)?.setAttribute("aria-current", "true");
  if (focused) all("a, button, summary", part).find((one) => mark(one) === focused)?.focus();
  const after = $(".log", part);
  if (after) after.scrollTop = isAtEnd ? after.scrollHeight : scrolled;
};

const banner = (shown) => { const place = $("#banner"); if (place) place.hidden = !shown; };

const read = async () => {
  if (reading) { again = true; return; }
  reading = true;
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    if (answer.redirected && new URL(answer.url).pathname.endsWith("/login")) return location.reload();
    if (answer.ok) {
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      document.title = fresh.title;
      all("[data-part]").forEach((part) => { const other = fresh.getElementById(part.id); if (other) put(part, other); });
      if (!fresh.body.dataset.live) stop();
    }
    banner(answer.status >= 500);
    failures = answer.status >= 500 ? failures + 1 : 0;
  } catch {
    banner(true);
    failures += 1;
  } finally {
    reading = false;
  }
  if (failures > 0) setTimeout(read, Math.min(1000 * failures, 10000));
  else if (again) { again = false; setTimeout(read, 300); }
};

let stop = () => {};
const watch = () => {
  if (!source) return;
  if (source.endsWith("poll")) {
    const timer = setInterval(() => { if (!document.hidden) read(); }, 2000);
    stop = () => clearInterval(timer);
    return;
  }
  const events = new EventSource(source);
  for (const kind of ["queues", "ends", "gap", "task", "log", "gone"]) events.addEventListener(kind, read);
  events.onerror = () => { if (events.readyState === EventSource.CLOSED) { events.close(); setTimeout(watch, 3000); } read(); };
  stop = () => events.close();
  addEventListener("pagehide", stop);
};
watch();

// -- keys ---------------------------------------------------------------------------------------------------------------------------------

const rows = () => all("tr[data-row]");
const move = (by) => {
  const list = rows();
  if (!list.length) return;
  const at = list.findIndex((row) => row.hasAttribute("aria-current"));
  const next = Math.max(0, Math.min(list.length - 1, at < 0 ? 0 : at + by));
  list.forEach((row) => row.removeAttribute("aria-current"));
  list[next].setAttribute("aria-current", "true");
  list[next].scrollIntoView({ block: "nearest" });
};
const current = () => $("tr[aria-current]");

let going = false;
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea") || $("dialog[open]")) return;
  if (going) {
    going = false;
    const place = all("[data-go]").find((link) => link.dataset.go === event.key);
    if (place) { event.preventDefault(); location.href = place.href; }
    return;
  }
  const acts = {
    "/": () => $(".search input")?.focus(),
    "g": () => { going = true; setTimeout(() => { going = false; }, 1500); },
    "j": () => move(1),
    "k": () => move(-1),
    "x": () => $("input[type=checkbox]", current() ?? document.createElement("i"))?.click(),
    "Enter": () => { if (document.activeElement === document.body || document.activeElement.id === "content") $("a", current() ?? document.createElement("i"))?.click(); },
    "?": () => $("#keys")?.showModal(),
  };
  const act = acts[event.key];
  if (!act) return;
  if (event.key !== "Enter") event.preventDefault();
  act();
});

// -- rows: a click opens, a checkbox selects, shift selects a range ---------------------------------------------------------------------

let last = null;
addEventListener("click", (event) => {
  const box = event.target.closest("td.check input");
  if (box) {
    const boxes = all("td.check input");
    if (event.shiftKey && last && boxes.includes(last)) {
      const [from, to] = [boxes.indexOf(last), boxes.indexOf(box)].sort((a, b) => a - b);
      boxes.slice(from, to + 1).forEach((one) => { one.checked = box.checked; });
    }
    last = box;
    return selected();
  }
  const row = event.target.closest("tr[data-row]");
  if (row && !event.target.closest("a, button, input, label, summary, form, td.check") && document.getSelection().isCollapsed) $("a", row)?.click();
});

const selected = () => {
  const form = $("#selected");
  if (!form) return;
  const count = all("td.check input:checked").length;
  if (count) form.dataset.count = count; else delete form.dataset.count;
  $("span", form).dataset.count = count;
};

// -- copying -----------------------------------------------------------------------------------------------------------------------------

addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  const text = button && document.getElementById(button.dataset.copy);
  if (!text || button.textContent === button.dataset.done) return;
  try {
    await navigator.clipboard.writeText(text.textContent);
  } catch {
    // Without TLS there is no clipboard. Select the text: the older way copies that, or the person does.
    for (let place = text.closest("details"); place; place = place.parentElement.closest("details")) place.open = true;
    document.getSelection().selectAllChildren(text);
    if (!document.execCommand("copy")) return;
  }
  const label = button.textContent;
  button.textContent = button.dataset.done;
  setTimeout(() => { button.textContent = label; }, 2000);
});

// -- final changes ask a second time ----------------------------------------------------------------------------------------------------

addEventListener("submit", (event) => {
  const button = event.submitter;
  if (event.target.method === "get") {
    // Leave empty fields out of the address.
    all("input, select", event.target).forEach((field) => { if (!field.value) field.disabled = true; });
    if (button && !button.value) button.disabled = true;
    return;
  }
  if (button?.dataset.confirm && button.dataset.sure !== "yes") {
    event.preventDefault();
    const label = button.textContent;
    button.textContent = `${label}?`;
    button.dataset.sure = "yes";
    setTimeout(() => { button.textContent = label; delete button.dataset.sure; }, 4000);
  }
});
addEventListener("pageshow", () => all("form [disabled]").forEach((field) => { field.disabled = false; }));

// The chat widget: <script src="https://HOST/widget.js" data-site="TOKEN" async></script>
// Optional: data-language="de", data-theme="light" or "dark", data-color="#0a6", data-position="left".
// With data-page it fills the page of this server. It sends nothing to other hosts and sets no cookie.
(() => {
  "use strict";
  const script = document.currentScript;
  if (!script || window.assistantBuilderWidget) return;
  window.assistantBuilderWidget = true;
  const server = new URL(script.src).origin;
  const options = script.dataset;
  const whole = "page" in options;
  const language = options.language || document.documentElement.lang || navigator.language || "en";
  const KEPT = `assistant-builder:${server}:${options.site}`;

  const STYLE = `
    :host { all: initial; --accent: #4338ca; --on-accent: #fff; --ground: #fff; --text: #1c1d22; --quiet: #565a66;
      --line: #d5d8e0; --said: #eef0f6; font: 16px/1.45 system-ui, sans-serif; color: var(--text); }
    :host([data-dark]) { --accent: #a5b4fc; --on-accent: #14151c; --ground: #16181f; --text: #eceef4; --quiet: #a9aebc;
      --line: #3a3e4b; --said: #242835; }
    * { box-sizing: border-box; font: inherit; color: inherit; }
    [hidden] { display: none !important; }
    button { cursor: pointer; border: 0; background: none; min-width: 44px; min-height: 44px; border-radius: 10px; }
    :focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
    .bubble { position: fixed; inset-block-end: 20px; inset-inline-end: 20px; z-index: 2147483000; display: flex;
      gap: 8px; align-items: center; padding: 0 18px; min-height: 52px; border-radius: 26px; background: var(--accent);
      color: var(--on-accent); font-weight: 600; box-shadow: 0 4px 16px #0004; }
    .left .bubble, .left .panel { inset-inline-end: auto; inset-inline-start: 20px; }
    .panel { position: fixed; inset-block-end: 20px; inset-inline-end: 20px; z-index: 2147483000; display: flex;
      flex-direction: column; width: min(400px, calc(100vw - 40px)); height: min(600px, calc(100vh - 40px));
      background: var(--ground); border: 1px solid var(--line); border-radius: 16px; overflow: hidden;
      box-shadow: 0 8px 32px #0005; }
    .whole .panel { position: static; width: min(760px, 100%); height: 100dvh; margin: 0 auto; border-radius: 0;
      border-block: 0; box-shadow: none; }
    header { display: flex; align-items: center; gap: 4px; padding: 6px 8px; padding-inline-start: 16px;
      border-block-end: 1px solid var(--line); }
    h2 { flex: 1; margin: 0; font-size: 17px; font-weight: 650; overflow-wrap: anywhere; }
    .log { flex: 1; overflow-y: auto; padding: 14px 16px; display: flex; flex-direction: column; gap: 10px; }
    .turn { max-width: 88%; padding: 8px 12px; border-radius: 12px; background: var(--said); white-space: pre-wrap;
      overflow-wrap: anywhere; align-self: flex-start; }
    .you { align-self: flex-end; background: var(--accent); color: var(--on-accent); }
    .note { color: var(--quiet); font-size: 14px; margin: 0; }
    .contact { align-self: flex-start; margin: 0; overflow-wrap: anywhere; }
    a { color: var(--accent); }
    details { font-size: 14px; color: var(--quiet); }
    summary { min-height: 32px; cursor: pointer; }
    details p { margin: 4px 0 8px; }
    form { display: flex; gap: 8px; padding: 10px 12px; border-block-start: 1px solid var(--line); align-items: end; }
    textarea { flex: 1; min-height: 44px; max-height: 130px; padding: 10px 12px; resize: none; background: var(--ground);
      border: 1px solid var(--quiet); border-radius: 10px; }
    form button { background: var(--accent); color: var(--on-accent); font-weight: 600; padding: 0 14px; }
    .suggested { display: flex; flex-direction: column; gap: 6px; align-items: flex-start; }
    .suggested button { padding: 6px 12px; border: 1px solid var(--quiet); text-align: start; overflow-wrap: anywhere; }
    .tools { display: flex; gap: 4px; }
    .tools button { border: 1px solid transparent; }
    .tools path { fill: none; stroke: currentColor; stroke-width: 1.7; stroke-linejoin: round; }
    .tools button[aria-pressed="true"] { border-color: var(--accent); }
    .log form { padding: 0; border: 0; }
    footer { padding: 0 16px 10px; }
    .hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
    @media (max-width: 480px) {
      .panel, .left .panel { inset: 0; width: 100%; height: 100dvh; border: 0; border-radius: 0; }
    }`;

  const make = (tag, props = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), props);
    node.append(...children);
    return node;
  };
  const thumb = (value) => { // drawn, because not every system has a font with it
    const [picture, path] = ["svg", "path"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
    for (const [name, text] of Object.entries({ viewBox: "0 0 24 24", width: 18, height: 18, "aria-hidden": true,
      ...(value < 0 && { transform: "rotate(180)" }) })) picture.setAttribute(name, text);
    path.setAttribute("d", "M7 11H4v9h3M7 11v9h10.6a2 2 0 0 0 2-1.6l1.3-6a2 2 0 0 0-2-2.4H14l.7-4.2A2.4 2.4 0 0 0 12.3 3z");
    picture.append(path);
    return picture;
  };
  const post = (path, body, signal) => fetch(`${server}${path}`, {
    method: "POST", body: JSON.stringify({ site: options.site, ...body }), signal, credentials: "omit",
    referrerPolicy: "no-referrer",
  });
  const kept = () => { try { return JSON.parse(sessionStorage.getItem(KEPT)) || []; } catch { return []; } };
  const keep = (turns) => { try { sessionStorage.setItem(KEPT, JSON.stringify(turns)); } catch { /* blocked */ } };

  const host = make("div");
  const root = host.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(STYLE);
  root.adoptedStyleSheets = [sheet];
  const preference = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => host.toggleAttribute("data-dark", options.theme ? options.theme === "dark" : preference.matches);
  preference.addEventListener("change", theme);
  theme();
  if (/^#[0-9a-f]{3,8}$/i.test(options.color || "")) {
    host.style.setProperty("--accent", options.color);
    host.style.setProperty("--on-accent", bright(options.color) ? "#14151c" : "#fff");
  }
  function bright(color) {
    const hex = color.length < 6 ? [...color.slice(1, 4)].map((digit) => digit + digit).join("") : color.slice(1, 7);
    const [r, g, b] = [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18;
  }

  let said = kept();
  const visitor = (() => {
    const made = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    try {
      const name = `${KEPT}:visitor`;
      if (!sessionStorage.getItem(name)) sessionStorage.setItem(name, made());
      return sessionStorage.getItem(name);
    } catch { return made(); }
  })();
  let running = null;
  let next = false; // Enter was pressed while an answer is written

  async function start() {
    let shown;
    try {
      const response = await post("/widget/start", { language });
      if (!response.ok) throw new Error((await response.json()).error.message);
      shown = await response.json();
    } catch (error) {
      console.error(`Assistant: ${error.message}`);
      return;
    }
    build(shown);
  }

  function build({ title, contact, direction, language: spoken, longest, turns, texts, feedback, greeting, examples }) {
    const bubble = make("button", { className: "bubble", type: "button", textContent: texts.open, part: "bubble" });
    bubble.setAttribute("aria-expanded", "false");
    const heading = make("h2", { textContent: title, id: "title" });
    const again = make("button", { type: "button", textContent: "↺", title: texts.again, ariaLabel: texts.again });
    const close = make("button", { type: "button", textContent: "✕", title: texts.close, ariaLabel: texts.close });
    close.hidden = whole;
    const log = make("div", { className: "log", role: "log", tabIndex: 0, ariaLabel: title });
    const box = make("textarea", { rows: 1, maxLength: longest, placeholder: texts.placeholder,
      ariaLabel: texts.placeholder, enterKeyHint: "send" });
    const send = make("button", { type: "submit", textContent: texts.send });
    const stop = make("button", { type: "button", textContent: texts.stop, hidden: true });
    const form = make("form", {}, box, send, stop);
    const notice = make("footer", {}, make("p", { className: "note", textContent: texts.machine }));
    const panel = make("section", { className: "panel", role: whole ? "region" : "dialog", hidden: !whole, lang: spoken },
      make("header", {}, heading, again, close), log, form, notice);
    panel.setAttribute("aria-labelledby", "title");
    const frame = make("div", { dir: direction,
      className: whole ? "whole" : options.position === "left" ? "left" : "" }, panel);
    if (!whole) frame.prepend(bubble);
    root.append(frame);

    const atEnd = () => { log.scrollTop = log.scrollHeight; };
    const turn = (role, text) => {
      const node = make("div", { className: `turn ${role === "user" ? "you" : ""}`, dir: "auto" },
        make("span", { className: "hidden", textContent: `${role === "user" ? texts.you : texts.assistant}: ` }),
        make("span", { textContent: text }));
      log.append(node);
      atEnd();
      return node.lastChild;
    };
    const note = (text) => {
      const node = make("p", { className: "note", textContent: text });
      log.append(node);
      atEnd();
      return node;
    };
    const contactLine = () => {
      if (!contact) return;
      const line = make("p", { className: "contact", dir: "auto" });
      const found = /(https?:\/\/[^\s]+|[^\s@]+@[^\s@]+\.[^\s@.,;]+)/.exec(contact);
      if (found) {
        const link = make("a", { textContent: found[0], rel: "noopener",
          href: found[0].startsWith("http") ? found[0] : `mailto:${found[0]}` });
        line.append(contact.slice(0, found.index), link, contact.slice(found.index + found[0].length));
      } else line.textContent = contact;
      log.append(line);
      atEnd();
    };
    const sourceList = (sources) => {
      if (!sources.length) return;
      log.append(make("details", {}, make("summary", { textContent: texts.sources }),
        ...sources.map((source) => make("p", { dir: "auto", textContent: `${source.question} — ${source.answer}` }))));
      atEnd();
    };
    const suggestionList = (questions, label, id, titled = true) => {
      if (!questions.length) return;
      const title = titled ? [make("p", { className: "note", textContent: label })] : [];
      const list = make("div", { className: "suggested", role: "group", ariaLabel: label }, ...title);
      for (const question of questions) {
        const button = make("button", { type: "button", dir: "auto", textContent: question });
        button.addEventListener("click", () => {
          if (running) return;
          if (id) post("/widget/feedback", { id, chosen: question }).catch(() => {});
          ask(question);
          box.focus();
        });
        list.append(button);
      }
      log.append(list);
      atEnd();
    };
    const voting = (id) => {
      const tools = make("div", { className: "tools" });
      const send = (body) => post("/widget/feedback", { id, ...body }).catch(() => {});
      const vote = (value, label) => {
        const button = make("button", { type: "button", title: label, ariaLabel: label }, thumb(value));
        button.setAttribute("aria-pressed", "false");
        button.addEventListener("click", () => {
          for (const other of tools.querySelectorAll("button")) {
            other.setAttribute("aria-pressed", String(other === button));
          }
          send({ vote: value });
          if (value < 0 && feedback === "texts" && !tools.nextElementSibling?.matches("form")) better();
        });
        return button;
      };
      const better = () => {
        const words = make("textarea", { rows: 2, maxLength: 2000, placeholder: texts.better, ariaLabel: texts.better });
        const form = make("form", {}, words, make("button", { type: "submit", textContent: texts.send }));
        form.addEventListener("submit", (event) => {
          event.preventDefault();
          if (!words.value.trim()) return;
          send({ suggestion: words.value.trim() });
          form.replaceWith(make("p", { className: "note", textContent: texts.thanks }));
          box.focus();
        });
        tools.after(form);
        words.focus();
        atEnd();
      };
      tools.append(vote(1, texts.helpful), vote(-1, texts.unhelpful));
      log.append(tools);
      atEnd();
    };
    const open = (opened) => {
      panel.hidden = !opened;
      bubble.hidden = opened;
      bubble.setAttribute("aria-expanded", String(opened));
      (opened ? box : bubble).focus();
      atEnd();
    };
    const redraw = () => {
      log.replaceChildren();
      for (const { role, content } of said) turn(role, content);
      if (said.length) return;
      turn("assistant", greeting); // not part of the conversation
      suggestionList(examples, texts.examples, "");
    };

    async function ask(question) {
      const talk = said; // a new conversation may begin before the answer ends
      talk.push({ role: "user", content: question });
      turn("user", question);
      running = new AbortController();
      const { signal } = running;
      send.hidden = true;
      stop.hidden = false;
      let pending = note("…");
      let text = "";
      let shown = null;
      const problem = (message) => { (pending || (pending = note(""))).textContent = message; };
      try {
        let from = Math.max(0, talk.length - turns + 1);
        while (talk[from].role !== "user") from += 1;
        const response = await post("/widget/ask", { visitor, messages: talk.slice(from) }, signal);
        if (!response.ok) {
          const seconds = response.headers.get("retry-after");
          const wait = response.status === 429 && (seconds || 10);
          throw Object.assign(new Error("refused"), { said: wait ? texts.busy.replace("{seconds}", wait) : texts.failed });
        }
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        let rest = "";
        let ended = false;
        for (;;) {
          const { value, done } = await reader.read();
          if (done) break;
          rest += value;
          for (let at = rest.indexOf("\n\n"); at >= 0; at = rest.indexOf("\n\n")) {
            const event = JSON.parse(rest.slice(6, at));
            rest = rest.slice(at + 2);
            if (event.place) problem(texts.waiting.replace("{place}", event.place));
            if (event.error) throw Object.assign(new Error(event.error), { said: texts.failed });
            if (event.text) {
              if (pending) pending.remove();
              pending = null;
              shown = shown || turn("assistant", "");
              shown.textContent = text += event.text;
              atEnd();
            }
            if (event.end) {
              ended = true;
              sourceList(event.sources);
              if (event.declined) contactLine();
              suggestionList(event.suggestions || [], event.reply ? texts.examples : texts.suggested, event.reply ? "" : event.id,
                !event.asks_back); // its text has the question already
              if (event.id && !event.reply) voting(event.id);
            }
          }
        }
        if (!ended) throw Object.assign(new Error("cut off"), { said: texts.failed });
        if (pending) pending.remove();
      } catch (error) {
        if (signal.aborted) { if (pending) pending.remove(); } else problem(error.said || texts.offline);
      }
      running = null;
      send.hidden = false;
      stop.hidden = true;
      if (text) talk.push({ role: "assistant", content: text });
      else talk.pop();
      keep(said);
      if (next && text) form.requestSubmit();
      next = false;
    }

    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const question = box.value.trim();
      next = Boolean(question && running);
      if (!question || running) return;
      box.value = "";
      ask(question);
      box.focus();
    });
    box.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    stop.addEventListener("click", () => { if (running) running.abort(); box.focus(); });
    again.addEventListener("click", () => {
      next = false;
      if (running) running.abort();
      said = [];
      keep(said);
      redraw();
      box.focus();
    });
    bubble.addEventListener("click", () => open(true));
    close.addEventListener("click", () => open(false));
    panel.addEventListener("keydown", (event) => { if (event.key === "Escape" && !whole) open(false); });
    redraw();
    if (whole) box.focus();
  }

  const place = () => {
    (whole ? document.querySelector("main") : document.body).append(host);
    start();
  };
  if (document.body) place();
  else addEventListener("DOMContentLoaded", place);
})();

// The page works without this: it adds the choice of theme, and filter and pages to the table of reports.
"use strict";

const THEMES = ["system", "light", "dark"];
const PAGE = 12;

function stored(theme) {
  // A browser may keep pages opened from a file from storing anything; the choice then lasts as long as the page.
  try {
    if (theme) localStorage.setItem("theme", theme);
    return localStorage.getItem("theme") || "system";
  } catch {
    return theme || "system";
  }
}

function dress(theme) {
  if (THEMES.indexOf(theme) > 0) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

function themeButton() {
  const button = document.getElementById("theme");
  let theme = stored();
  const show = () => {
    dress(theme);
    button.querySelector("span").textContent = theme;
  };
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    stored(theme);
    show();
  });
  button.hidden = false;
  show();
}

function reportTable() {
  const form = document.getElementById("filter");
  const status = document.getElementById("status");
  const nothing = document.getElementById("nothing");
  const [previous, next] = ["previous", "next"].map((id) => document.getElementById(id));
  const rows = [...document.querySelectorAll("#rows > tr")].map((element) => ({
    element,
    text: element.textContent.toLowerCase().replace(/\s+/g, " "),
  }));
  let page = 0;

  function fits({ element, text }) {
    const words = form.elements.text.value.toLowerCase().split(/\s+/);
    const chosen = ["setting", "outcome", "gradient", "host"];
    return (
      words.every((word) => text.includes(word)) &&
      chosen.every((name) => ["", element.dataset[name]].includes(form.elements[name].value))
    );
  }

  function show() {
    const found = rows.filter(fits);
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const shown = new Set(found.slice(page * PAGE, (page + 1) * PAGE));
    for (const row of rows) row.element.hidden = !shown.has(row);
    nothing.hidden = found.length > 0;
    previous.disabled = page === 0;
    next.disabled = page === pages - 1;
    const first = page * PAGE + 1;
    status.textContent = found.length
      ? `${first}–${first + shown.size - 1} of ${found.length}${found.length < rows.length ? " that fit" : ""}`
      : "None fits";
  }

  function turn(by) {
    page += by;
    show();
    // A button that has just been switched off would drop the focus.
    if (document.activeElement === document.body || document.activeElement.disabled) (by > 0 ? previous : next).focus();
  }

  form.addEventListener("input", () => {
    page = 0;
    show();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => form.dispatchEvent(new Event("input"))));
  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  form.hidden = false;
  document.querySelector(".pager").hidden = false;
  show();
}

dress(stored());
document.addEventListener("DOMContentLoaded", () => {
  themeButton();
  reportTable();
});

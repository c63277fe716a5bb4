// Light, dark, or as the system has it. Kept for the next report where the browser allows it.

const THEME = "aimwrap-report-theme";

function wireTheme() {
  const choices = [...document.querySelectorAll("[name=theme]")];
  const show = (theme) => (document.documentElement.dataset.theme = theme);
  const kept = attempt(() => localStorage.getItem(THEME));
  for (const input of choices) {
    if (input.value === kept) input.checked = true;
    input.addEventListener("change", () => {
      show(input.value);
      attempt(() => localStorage.setItem(THEME, input.value));
    });
  }
  show(choices.find((input) => input.checked).value);
}

/** Browsers may forbid a file to keep anything, by an exception. */
function attempt(action) {
  try {
    return action();
  } catch {
    return null;
  }
}

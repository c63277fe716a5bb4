// Bring the page to life, in the order in which a reader meets it.

function start() {
  document.documentElement.classList.add("scripted");
  wireTheme();
  makeControls();
  byId("filters").open = window.matchMedia("(min-width: 700px)").matches;
  readAddress();
  const { image } = state;
  showState();
  wireLarge();
  wireScatter();
  wireKeys();
  wireSections();
  if (image !== null) openLarge(image);
  window.addEventListener("hashchange", followAddress);
  window.addEventListener("beforeprint", printWhole);
  window.addEventListener("resize", repaintSoon);
}

/** Paper has no end to scroll to: every card is hung and painted. */
function printWhole() {
  hangMore(chosen.length);
  document.querySelectorAll("#cards .view").forEach(paintView);
}

/** Links to sections must not overwrite the state in the address. */
function wireSections() {
  for (const link of document.querySelectorAll('nav a[href^="#"], .skip')) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const section = document.querySelector(link.getAttribute("href"));
      section.scrollIntoView();
      section.focus({ preventScroll: true });
    });
  }
}

/** The address was changed by hand, or the reader went back. */
function followAddress() {
  readAddress();
  const { image } = state;
  if (image === null && byId("large").open) byId("large").close();
  showState();
  if (image !== null) openLarge(image);
}

let waiting = null;
function repaintSoon() {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    showOverlay();
    paintLarge();
  }, 150);
}

start();

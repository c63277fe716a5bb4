// A view: an image with an overlay of one model. It is painted when it comes into sight.

const painted = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) if (isIntersecting) paintView(target);
  },
  { rootMargin: "200px" },
);
const shownBy = new WeakMap(); // what each view shows

/** A view of an image; painted by `paintView`, or when in sight if it is `watched`. */
function makeView(imageIndex, index, overlay, { watched = true, alt = "" } = {}) {
  const image = images[imageIndex];
  const [height, width] = content.image_size;
  const view = make(
    "span",
    { class: "view" },
    make("img", { src: image.thumbnail, alt, width, height, decoding: "async", draggable: false }),
    make("canvas", { "aria-hidden": "true" }),
  );
  view.style.aspectRatio = `${width} / ${height}`;
  tell(view, { image, index, overlay });
  if (watched) painted.observe(view);
  return view;
}

function tell(view, what) {
  shownBy.set(view, what);
  view.classList.toggle("greyed", what.overlay.name === CONTRIBUTIONS);
  view.classList.toggle("lacking", !has(what.index, what.overlay));
}

function paintView(view) {
  const { image, index, overlay } = shownBy.get(view);
  paint(view.querySelector("canvas"), image, index, has(index, overlay) ? overlay : overlayOf(IMAGE), state.object);
}

/** Show another overlay; painted at once only where it is seen. */
function changeView(view, overlay) {
  tell(view, { ...shownBy.get(view), overlay });
  painted.unobserve(view);
  painted.observe(view);
}

// Making elements. Text comes from unchecked data, so it only ever becomes a text node.

const byId = (id) => document.getElementById(id);

/** An element with properties ("class", "data-..." and "aria-..." as attributes) and children: nodes or strings. */
function make(tag, properties = {}, ...children) {
  return dress(document.createElement(tag), properties, children);
}

/** The same for SVG, where everything is an attribute. */
function draw(tag, attributes = {}, ...children) {
  return dress(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children, true);
}

function dress(element, properties, children, attributesOnly = false) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (!attributesOnly && name in element && !name.includes("-")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** A name of unknown origin: its writing direction stays its own affair. */
const isolated = (text, properties = {}) => make("bdi", properties, text);

// What the page is about, as it was embedded, and what is often asked of it.

const content = JSON.parse(byId("content").textContent);
const { images, models } = content;
const classes = content.data.classes;
const groups = content.data.groups;

const number = Object.fromEntries(models.map((model, index) => [model.role, index])); // by role
const comparing = "other" in number;
const LETTERS = { model: "A", other: "B", plain: "P" };

const stagesOf = models.map((model) => Object.fromEntries(model.stages.map((stage) => [stage.stage, stage])));
const stageNames = [...new Set(models.flatMap((model) => model.stages.map((stage) => stage.stage)))];
const anyMask = models.some((model) => model.kind !== "plain");
const looksTwice = (index) => models[index].kind === "second look";
const anySecondLook = models.some((_, index) => looksTwice(index));

/** A model's score by its key; null where it has none. */
const scoreOf = (index, key) => models[index].scores.find((score) => score.key === key)?.value ?? null;

/** Numbers of the models that cards show: plain only when asked for. */
const shownModels = (state) => models.map((_, index) => index).filter((index) => models[index].role !== "plain" || state.plain);

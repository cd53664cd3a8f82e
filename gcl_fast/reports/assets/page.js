"use strict";
// Sorts the ranked lists by the attribute data-KEY of each; the address ends in #sort=KEY, or #sort=-KEY for the reverse.
(() => {
  const lists = document.querySelector("ol.lists");
  if (!lists) return;
  const buttons = [...document.querySelectorAll("button[data-sort]")];
  const sort = (order) => {
    const reverse = order.startsWith("-"), key = order.replace(/^-/, "");
    if (!buttons.some((button) => button.dataset.sort === key)) return;
    const value = (item) => item.dataset[key];
    const numeric = [...lists.children].every((item) => value(item) !== "" && !isNaN(value(item)));
    const compare = numeric
      ? (a, b) => value(a) - value(b)
      : (a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0);
    const items = [...lists.children].sort(compare);
    lists.append(...(reverse ? items.reverse() : items));
    for (const button of buttons) {
      const chosen = button.dataset.sort === key;
      button.setAttribute("aria-pressed", chosen);
      button.dataset.reverse = chosen && reverse ? "yes" : "";
      button.textContent = button.dataset.label + (chosen ? (reverse ? " ↓" : " ↑") : "");
    }
  };
  for (const button of buttons)
    button.addEventListener("click", () => {
      const again = button.getAttribute("aria-pressed") === "true" && !button.dataset.reverse;
      sort((again ? "-" : "") + button.dataset.sort);
    });
  const follow = () => {
    const [, order] = /^#sort=(-?\w+)$/.exec(location.hash) || [];
    if (order) sort(order);
  };
  window.addEventListener("hashchange", follow);
  follow();
})();

"use strict";
// Names come from clients and providers: they get into the page as text only, never as markup.

const byId = (id) => document.getElementById(id);

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function setClass(element, name) {
  if (element.className !== name) element.className = name;
}

/** Make `parent` have exactly as many children as there are `items`, each shown by `show(child, item)`. */
function each(parent, items, create, show) {
  while (parent.children.length > items.length) parent.lastElementChild.remove();
  while (parent.children.length < items.length) parent.append(create());
  items.forEach((item, index) => show(parent.children[index], item));
}

// --- figures as text ---

const whole = new Intl.NumberFormat("en");
const number = (value) => whole.format(Math.round(value));

function decimal(value) {
  if (value === 0) return "0";
  return value < 10 ? value.toFixed(1) : number(value);
}

const cents = new Intl.NumberFormat("en", {minimumFractionDigits: 2, maximumFractionDigits: 2});

/** Of what a stream costs, cents would say nothing. */
function dollars(value) {
  if (value > 0 && value < 0.0001) return "< $0.0001";
  return `$${value > 0 && value < 0.1 ? value.toFixed(4) : cents.format(value)}`;
}

function bytes(value) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) { value /= 1000; unit += 1; }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

function seconds(value) {
  if (value <= 0) return "0 s";
  if (value < 0.995) return `${Math.max(1, Math.round(value * 1000))} ms`;
  if (value < 9.95) return `${value.toFixed(1)} s`;
  if (value < 120) return `${Math.round(value)} s`;
  const minutes = Math.floor(value / 60);
  if (minutes < 120) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d`;
}

const time = (epoch) => new Date(epoch * 1000).toLocaleTimeString([], {hour12: false});

// --- what is remembered ---

function remembered(store, key) {
  try { return store.getItem(key); } catch { return null; }
}

function remember(store, key, value) {
  try {
    if (value === null) store.removeItem(key); else store.setItem(key, value);
  } catch { /* a browser that keeps nothing */ }
}

const HOLDERS = ["client", "network", "provider", "relay"];

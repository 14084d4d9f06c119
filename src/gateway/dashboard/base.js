'use strict';
// What all parts of the page share: finding and making elements, words for numbers, colours, and asking a node.
// Text from the cluster reaches the page as text nodes only, never as markup.

const $ = (id) => document.getElementById(id);

// An element with properties, attributes (names with a dash, role, class) and children.
function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === 'class') made.className = value;
    else if (name.includes('-') || name === 'role' || name === 'scope') made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

// Writes only what has changed: screen readers read aloud what is written.
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const LOCALE = 'en';
const whole = new Intl.NumberFormat(LOCALE);

function count(number) {
  return number == null ? '–' : whole.format(Math.round(number));
}

function short(number) {
  if (number == null || Number.isNaN(number)) return '–';
  if (number >= 1e6) return `${(number / 1e6).toFixed(1)} M`;
  if (number >= 1e4) return `${(number / 1e3).toFixed(0)} k`;
  return number >= 10 || number === 0 ? count(number) : number.toFixed(1);
}

function bytes(number) {
  if (number == null) return '–';
  let unit = 0;
  while (number >= 1024 && unit < 4) { number /= 1024; unit += 1; }
  return `${unit > 0 && number < 10 ? number.toFixed(1) : Math.round(number)} ${['B', 'KiB', 'MiB', 'GiB', 'TiB'][unit]}`;
}

function micros(us) {
  if (us == null) return '–';
  if (us < 1000) return `${Math.round(us)} µs`;
  if (us < 1e6) return `${(us / 1000).toFixed(us < 1e4 ? 1 : 0)} ms`;
  return `${(us / 1e6).toFixed(1)} s`;
}

function millis(ms) {
  return ms == null ? '–' : micros(ms * 1000);
}

function age(ms) {
  if (ms < 60e3) return millis(ms);
  if (ms < 3600e3) return `${Math.round(ms / 60e3)} min`;
  return ms < 48 * 3600e3 ? `${Math.round(ms / 3600e3)} h` : `${Math.round(ms / 86400e3)} days`;
}

function clock(when) {
  return new Date(when).toLocaleTimeString(LOCALE, { hour12: false });
}

function list(names) {
  return names.length === 0 ? 'nobody' : names.join(', ');
}

// ------------------------------------------------------------------------------------------------------------- colours

const darkness = matchMedia('(prefers-color-scheme: dark)');
const NODE_COLOURS = {
  light: ['#3b6fb6', '#cf8a3c', '#4f9a6c', '#9069ac', '#bd5b62', '#3a96a0', '#968638', '#777c84'],
  dark: ['#5f93d6', '#d6924f', '#5cae7d', '#a483c6', '#d0707a', '#55b1bb', '#b5a550', '#8f959e'],
};

// The colour of a node, by its slot. Beyond the first few, hues that lie as far apart as they can.
function colourOf(slot) {
  const colours = NODE_COLOURS[darkness.matches ? 'dark' : 'light'];
  if (slot < colours.length) return colours[slot];
  return `hsl(${Math.round(slot * 137.5) % 360} ${darkness.matches ? '38% 60%' : '42% 46%'})`;
}

function themed(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// ------------------------------------------------------------------------------------------------------- asking a node

const TOKEN = 'jumpgate-token';

function token() {
  return sessionStorage.getItem(TOKEN) ?? '';
}

// Asks a node, by default the one that this page came from. Fails where no answer comes in time; a status is no failure.
async function ask(path, { origin = '', timeout = 6000, headers = {}, ...options } = {}) {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), timeout);
  if (token()) headers.authorization = `Bearer ${token()}`;
  try {
    const answer = await fetch(origin + path, {
      ...options, headers, signal: abort.signal, cache: 'no-store', credentials: 'omit', redirect: 'follow',
    });
    // The body belongs to the answer: a node that stops in the middle of it has not answered.
    const body = await answer.arrayBuffer();
    if (origin === '') onAuthorized(answer.status);
    return { status: answer.status, headers: answer.headers, body };
  } finally {
    clearTimeout(timer);
  }
}

function text(answer) {
  return new TextDecoder().decode(answer.body);
}

function json(answer) {
  return JSON.parse(text(answer));
}

// What a failed answer says, for people.
function reason(answer) {
  try {
    const problem = json(answer);
    const outcome = problem.outcome === 'unknown' ? ' Whether it was done is not known.' : '';
    return `${problem.title}: ${problem.detail}.${outcome}`;
  } catch {
    return `The node answered ${answer.status}.`;
  }
}

// An id that makes a write happen once, however often it is sent. (randomUUID needs https.)
function onceId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

let isTokenAsked = false;

function onAuthorized(status) {
  if (status === 401 && !isTokenAsked) {
    isTokenAsked = true;
    say($('token-note'), token() ? 'The token was refused.' : '');
    $('token-form').hidden = false;
    $('token').focus();
  } else if (status < 400 && isTokenAsked) {
    isTokenAsked = false;
    $('token-form').hidden = true;
  }
}

// `retry` is done once there is another token.
function startToken(retry) {
  $('token-form').addEventListener('submit', (event) => {
    event.preventDefault();
    sessionStorage.setItem(TOKEN, $('token').value.trim());
    $('token').value = '';
    isTokenAsked = false;
    $('token-form').hidden = true;
    retry();
  });
}

// Looking at keys and changing them. A value is saved on top of the version that was read, so that two people who edit the
// same key don't overwrite each other unnoticed. Writes go to this page's own node, which passes them on.

const PAGE_KEYS = 15;
const SHOWN_BYTES_MAX = 256 * 1024;

const keys = { cursors: [''], next: null, isAsked: false };
const editor = { key: null, etag: null, bytes: null, isText: true, was: '', deletesAt: 0 };

function note(id, kind, text) {
  $(id).className = `note ${kind}`;
  say($(id), text);
}

// ------------------------------------------------------------------------------------------------------------------- list

async function showKeys() {
  const parameters = new URLSearchParams({ limit: PAGE_KEYS });
  const prefix = $('keys-prefix').value;
  if (prefix) parameters.set('prefix', prefix);
  const cursor = keys.cursors[keys.cursors.length - 1];
  if (cursor) parameters.set('cursor', cursor);
  keys.isAsked = true;
  try {
    const answer = await ask(`/v1/kv?${parameters}`);
    if (answer.status !== 200) return note('keys-note', 'bad', reason(answer));
    const page = json(answer);
    keys.next = page.cursor;
    $('keys').replaceChildren(...page.items.map(rowOfKey));
    const isStale = answer.headers.has('jumpgate-degraded') ? ' As the surviving copies have it: there is no quorum.' : '';
    const nothing = prefix ? 'No key begins with that.' : 'No keys yet.';
    note('keys-note', '', (page.items.length === 0 && !page.cursor && keys.cursors.length === 1 ? nothing : `page ${keys.cursors.length}.`) + isStale);
  } catch {
    note('keys-note', 'bad', 'The node does not answer.');
  } finally {
    $('keys-previous').disabled = keys.cursors.length < 2;
    $('keys-next').disabled = !keys.next;
  }
}

function rowOfKey(item) {
  const button = el('button', { type: 'button' }, item.key);
  button.addEventListener('click', () => openKey(item.key));
  return el('tr', {}, el('td', {}, button), el('td', { class: 'number' }, bytes(item.size)),
    el('td', { class: 'wide' }, item.content_type ?? ''), el('td', { class: 'number' }, item.expires_in_ms == null ? '' : age(item.expires_in_ms)));
}

function firstPage() {
  keys.cursors = [''];
  return showKeys();
}

// ----------------------------------------------------------------------------------------------------------------- editor

// The path of a key. Browsers take a step of one or two dots out of a path, however it is written.
function pathOf(key) {
  if (key === '.' || key === '..') throw new Error('A browser can not name this key; use the command line.');
  return `/v1/kv/${encodeURIComponent(key)}`;
}

async function openKey(key) {
  note('editor-note', '', '');
  try {
    const answer = await ask(pathOf(key));
    if (answer.status !== 200) return note('keys-note', 'bad', answer.status === 404 ? `${key} is gone.` : reason(answer));
    editor.key = key;
    editor.etag = answer.headers.get('etag');
    editor.bytes = answer.body;
    fillEditor(answer);
    $('editor').scrollIntoView({ block: 'nearest' });
    $(editor.isText ? 'editor-value' : 'editor-download').focus({ preventScroll: true });
  } catch (error) {
    note('keys-note', 'bad', error.name === 'Error' ? error.message : 'The node does not answer.');
  }
}

function fillEditor(answer) {
  const value = textOf(editor.bytes);
  editor.isText = value !== null;
  say($('editor-title'), editor.key);
  $('editor-key-row').hidden = true;
  $('editor-type').value = answer.headers.get('content-type') ?? '';
  const expires = answer.headers.get('jumpgate-expires-in');
  $('editor-ttl').value = expires === null ? '' : `${Math.max(1, Math.round(expires / 1000))}s`;
  $('editor-value').value = editor.isText ? value : dump(editor.bytes);
  $('editor-value').readOnly = !editor.isText;
  $('editor-save').disabled = !editor.isText;
  for (const id of ['editor-delete', 'editor-reload', 'editor-download']) $(id).hidden = false;
  $('editor').hidden = false;
  if (!editor.isText) note('editor-note', '', `${bytes(editor.bytes.byteLength)} that are no text, or too long to edit here.`);
  settle();
}

// The value as text, if it is some that a text field can hold unchanged.
function textOf(buffer) {
  if (buffer.byteLength > SHOWN_BYTES_MAX) return null;
  try {
    const value = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(buffer);
    return /[\r\0]/.test(value) ? null : value;
  } catch {
    return null;
  }
}

// The first bytes as people look at bytes.
function dump(buffer) {
  const lines = [];
  const shown = new Uint8Array(buffer.slice(0, 512));
  for (let at = 0; at < shown.length; at += 16) {
    const part = [...shown.slice(at, at + 16)];
    const hex = part.map((byte) => byte.toString(16).padStart(2, '0')).join(' ').padEnd(47);
    const letters = part.map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : '.')).join('');
    lines.push(`${at.toString(16).padStart(4, '0')}  ${hex}  ${letters}`);
  }
  if (buffer.byteLength > shown.length) lines.push('…');
  return lines.join('\n');
}

function newKey() {
  Object.assign(editor, { key: null, etag: null, bytes: null, isText: true });
  say($('editor-title'), 'A new key');
  $('editor-key-row').hidden = false;
  $('editor-key').value = $('keys-prefix').value;
  $('editor-type').value = 'text/plain';
  $('editor-ttl').value = '';
  $('editor-value').value = '';
  $('editor-value').readOnly = false;
  $('editor-save').disabled = false;
  for (const id of ['editor-delete', 'editor-reload', 'editor-download']) $(id).hidden = true;
  note('editor-note', '', '');
  $('editor').hidden = false;
  settle();
  $('editor-key').focus();
}

function contents() {
  return ['editor-key', 'editor-type', 'editor-ttl', 'editor-value'].map((id) => $(id).value).join('\0');
}

// What stands in the editor is what is stored.
function settle() {
  editor.was = contents();
  editor.deletesAt = 0;
  say($('editor-delete'), 'Delete');
}

// Whether something would be lost.
function isEdited() {
  return !$('editor').hidden && contents() !== editor.was;
}

async function save() {
  const isNew = editor.key === null;
  const key = isNew ? $('editor-key').value : editor.key;
  if (!key) return note('editor-note', 'bad', 'A key needs a name.');
  const headers = { 'idempotency-key': onceId() };
  const type = $('editor-type').value.trim();
  if (type) headers['content-type'] = type;
  if (isNew) headers['if-none-match'] = '*';
  else headers['if-match'] = editor.etag;
  const ttl = $('editor-ttl').value.trim();
  const parameters = ttl ? `?ttl=${encodeURIComponent(/^\d+$/.test(ttl) ? `${ttl}s` : ttl)}` : '';
  await write(async () => {
    const body = new TextEncoder().encode($('editor-value').value);
    const answer = await ask(pathOf(key) + parameters, { method: 'PUT', body, headers });
    if (answer.status === 412) {
      const words = isNew ? 'There is such a key already.' : 'Somebody has changed it meanwhile: reload it, then change it again.';
      return note('editor-note', 'bad', words);
    }
    if (answer.status >= 300) return note('editor-note', 'bad', reason(answer));
    Object.assign(editor, { key, etag: answer.headers.get('etag'), bytes: body.buffer });
    say($('editor-title'), key);
    $('editor-key-row').hidden = true;
    for (const id of ['editor-delete', 'editor-reload', 'editor-download']) $(id).hidden = false;
    settle();
    note('editor-note', 'good', `Saved in ${answer.headers.get('jumpgate-copies')} copies.`);
    await showKeys();
  });
}

// The first press asks, the second one does it.
async function remove() {
  if (Date.now() - editor.deletesAt > 4000) {
    editor.deletesAt = Date.now();
    say($('editor-delete'), 'Really delete');
    return;
  }
  await write(async () => {
    const answer = await ask(pathOf(editor.key), { method: 'DELETE', headers: { 'if-match': editor.etag, 'idempotency-key': onceId() } });
    if (answer.status === 412) return note('editor-note', 'bad', 'Somebody has changed it meanwhile: reload it and look.');
    if (answer.status >= 300 && answer.status !== 404) return note('editor-note', 'bad', reason(answer));
    $('editor').hidden = true;
    await showKeys();
    note('keys-note', 'good', `${editor.key} is deleted.`);
  });
}

async function write(act) {
  const buttons = [$('editor-save'), $('editor-delete')];
  for (const button of buttons) button.disabled = true;
  try {
    await act();
  } catch (error) {
    note('editor-note', 'bad', error.name === 'Error' ? error.message : 'The node does not answer. Whether it was done is not known.');
  } finally {
    $('editor-save').disabled = !editor.isText;
    $('editor-delete').disabled = false;
  }
}

function download() {
  const link = el('a', { href: URL.createObjectURL(new Blob([editor.bytes])), download: editor.key.split('/').pop() || 'value' });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function startKeys() {
  const on = (id, event, act) => $(id).addEventListener(event, (happened) => { happened.preventDefault(); act(); });
  on('keys-form', 'submit', firstPage);
  on('keys-next', 'click', () => { keys.cursors.push(keys.next); showKeys(); });
  on('keys-previous', 'click', () => { keys.cursors.pop(); showKeys(); });
  on('key-new', 'click', newKey);
  on('editor', 'submit', save);
  on('editor-delete', 'click', remove);
  on('editor-reload', 'click', () => openKey(editor.key));
  on('editor-download', 'click', download);
  on('editor-close', 'click', () => { $('editor').hidden = true; settle(); $('key-new').focus(); });
  addEventListener('beforeunload', (event) => { if (isEdited()) event.preventDefault(); });
  // The first page, once there is a cluster to ask.
  onStatus.push((status) => { if (!keys.isAsked && status.leader) showKeys(); });
}

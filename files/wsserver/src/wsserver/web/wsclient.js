// SPDX-License-Identifier: MIT
/**
 * A client for browsers that keeps the promise on its side: it reconnects, resumes by `seq`, and repeats what was not
 * acknowledged. The Python package `wsserver.client` in JavaScript; docs/clients.md tells how to use both.
 *
 *     import { Client } from "./wsclient.js";
 *
 *     const client = new Client("wss://ws.example.org/ws", { tokenFactory });
 *     await client.connect();
 *     await client.join("lobby", { onMessage: (message) => console.log(message.user, message.data) });
 *     await client.publish("lobby", { text: "hello" });
 *
 * Without dependencies. Names that begin with `_` are for this file only.
 */

const OPEN_MS = 10_000;
// A connection that lived so long was a good one: after it the waits begin anew.
const STABLE_MS = 5_000;

const FIRST_WAIT_MS = 1_000;
const LONGEST_WAIT_MS = 20_000;

const TICK_MS = 500;
// How long a server may be silent while it owes an answer, before it is asked whether it is still there.
const PROBE_OWING_MS = 3_000;
// How long it may take to say so.
const PONG_LEAST_MS = 2_000;
const PONG_MOST_MS = 10_000;

const RETRY_MS = 300;
// The server knows a repeat for five minutes after the publish; a later one would be a second message.
const REPEATED_FOR_MS = 240_000;
// What a refusal says of the try that it answers, if not that nothing was published.
const MAYBE_PUBLISHED = new Set(["outcome_unknown", "not_archived"]);
const PASSING = new Set(["unavailable", "outcome_unknown", "broker_full", "not_archived"]);

const PAGE_MAX = 100;

// Close codes: what the server says, and what a browser says when there was nothing.
const NOT_ALLOWED = 1008;
const BROKEN = 1006;

// What can go wrong.

/** The client is closed: by the application, or for good because the server refuses it. */
export class Closed extends Error {
  name = "Closed";
}

/** The server refused a command; `code` is from the table of docs/protocol.md. */
export class ServerError extends Error {
  name = "ServerError";

  constructor({ code, message }) {
    super(`${code}: ${message}`);
    this.code = code;
  }
}

/** The server does not let this client into the room. */
export class JoinError extends ServerError {
  name = "JoinError";
}

/**
 * Trying again does not help. Only if an earlier try was cut off may the message have been published.
 * `outcome_unknown`: it was repeated for as long as the server recognises repeats, four minutes, in vain.
 */
export class PublishError extends ServerError {
  name = "PublishError";
}

/** Whether the same command may succeed later. */
const passes = (error) => PASSING.has(error.code) || error.retry_after_ms != null;

/** When to try again: never earlier than the server says, and not all clients at once. */
const pauseMs = (error) => (error.retry_after_ms ?? RETRY_MS) * (1 + Math.random() / 2);

/** Exponential, and anywhere between now and then, so that many clients do not come at once. */
class Backoff {
  #failures = 0;

  reset() {
    this.#failures = 0;
  }

  /** Milliseconds to wait after one more failure. */
  next() {
    const longest = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** this.#failures);
    this.#failures = Math.min(this.#failures + 1, 16);
    return Math.random() * longest;
  }
}

/** One of: a token for good; a source of fresh tokens; a source of tickets, each good for one handshake. */
class Credentials {
  #token;
  #tokenFactory;
  #ticketFactory;
  #fresh;

  constructor({ token, tokenFactory, ticketFactory }) {
    if ([token, tokenFactory, ticketFactory].filter((given) => given != null).length !== 1) {
      throw new TypeError("a client needs one of token, tokenFactory and ticketFactory");
    }
    this.#token = token;
    this.#tokenFactory = tokenFactory;
    this.#ticketFactory = ticketFactory;
    this.#fresh = token != null;
  }

  /** The URL and the subprotocols of the next handshake. Throws whatever a factory throws. */
  async present(url) {
    if (this.#ticketFactory) {
      const ticket = await this.#ticketFactory();
      this.#fresh = true;
      // Who offers `bearer` is told why it is refused.
      return [`${url}${url.includes("?") ? "&" : "?"}ticket=${encodeURIComponent(ticket)}`, ["bearer"]];
    }
    if (this.#token == null) {
      await this.renew();
      this.#fresh = true;
    }
    return [url, ["bearer", this.#token]];
  }

  /** A token for a connection whose own expires soon; undefined if there is no source of them. */
  async renew() {
    if (!this.#tokenFactory) return undefined;
    this.#token = await this.#tokenFactory();
    return this.#token;
  }

  /** They let the client in; what is refused later has aged, and a factory may know better. */
  accepted() {
    this.#fresh = !this.#tokenFactory && !this.#ticketFactory;
  }

  /** They were refused. True if another try with fresh ones is worth it. */
  refused() {
    if (this.#fresh) return false;
    this.#token = undefined;
    return true;
  }
}

/**
 * One connection to a server: commands out, events in, and a deadline for its answers, since a page sees neither
 * protocol pings nor a peer that vanished.
 *
 * `owing`: whether the server has something to answer. `receive` gets each event, `ended` once why there will be no
 * more: a reason for people, and the close code if the server closed.
 */
class Link {
  heartbeatMs = PONG_MOST_MS; // until the server says
  #socket;
  #owing;
  #ended;
  #deadline;
  #ticking;
  #heardAt;
  #askedAt = null;
  #tickedAt;
  #forgiven = false;
  #over = false;

  constructor(url, subprotocols, { owing, receive, ended }) {
    this.#owing = owing;
    this.#ended = ended;
    this.#socket = new WebSocket(url, subprotocols);
    this.#deadline = setTimeout(() => this.abort("no answer"), OPEN_MS);
    this.#socket.onmessage = ({ data }) => {
      this.#heardAt = performance.now();
      let event;
      try {
        event = JSON.parse(data);
      } catch {
        this.abort("the server does not speak JSON");
        return;
      }
      receive(event);
    };
    this.#socket.onclose = ({ code, reason }) => {
      if (code === BROKEN) this.#end(this.#ticking ? "the connection broke" : "could not connect");
      else this.#end(reason ? `closed with ${code}: ${reason}` : `closed with ${code}`, code);
    };
  }

  /** The server let this client in: from now on it is expected to answer. */
  welcomed(heartbeatMs) {
    this.heartbeatMs = heartbeatMs;
    clearTimeout(this.#deadline);
    this.#tickedAt = performance.now();
    this.#ticking = setInterval(() => this.#tick(), TICK_MS);
  }

  send(command) {
    this.sendFrame(JSON.stringify(command));
  }

  sendFrame(frame) {
    this.#socket.send(frame);
  }

  /** Leave the connection now: nothing that it still brings is of use. */
  abort(why) {
    this.#socket.onmessage = this.#socket.onclose = null;
    // Without waiting for the other side, which may not be there.
    this.#socket.close();
    this.#end(why);
  }

  #end(why, code) {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#deadline);
    clearInterval(this.#ticking);
    this.#ended(why, code);
  }

  #tick() {
    const now = performance.now();
    const late = now - this.#tickedAt > 2 * TICK_MS;
    this.#tickedAt = now;
    if (this.#askedAt !== null && this.#heardAt > this.#askedAt) {
      this.#askedAt = null;
      this.#forgiven = false;
    } else if (this.#askedAt !== null && late && !this.#forgiven) {
      // It is this page that did not listen: the answer may be here already. A hidden page is always late.
      this.#askedAt = now;
      this.#forgiven = true;
    }
    const patience = this.#owing() ? Math.min(this.heartbeatMs, PROBE_OWING_MS) : this.heartbeatMs;
    const deadline = Math.min(Math.max(this.heartbeatMs / 2, PONG_LEAST_MS), PONG_MOST_MS);
    if (this.#askedAt === null && now - this.#heardAt >= patience) {
      // A ping that measures latency carries a number of its own; this one only wants to hear anything.
      this.send({ type: "ping", t: null });
      this.#askedAt = now;
    } else if (this.#askedAt !== null && now - this.#askedAt >= deadline) {
      this.abort("the server does not answer");
    }
  }
}

/**
 * Publishes from the call to the acknowledgement, over as many connections as that takes. They go out in the order of
 * the calls, and so do repeats, before anything that is not yet on the wire: after a refusal that passes, what was on
 * the wire behind the publish may be accepted before its repeat. `window`: how many may be unacknowledged.
 *
 * Of each, `inDoubtSince`: when the first try was sent that may have landed; `before`: the same without the last try.
 * By the calendar: the clock of a page may stand still while its computer sleeps.
 */
class Publishes {
  #window;
  #underWay = new Map();
  #link = null;
  #limit = 0;
  #held;

  constructor(window) {
    this.#window = window;
  }

  get any() {
    return this.#underWay.size > 0;
  }

  publish(room, data, id = randomId()) {
    if (JSON.stringify(data) === undefined) throw new TypeError(`JSON cannot say ${data}`);
    const frame = JSON.stringify({ type: "publish", room, data, id });
    const bytes = new TextEncoder().encode(frame).length;
    if (this.#underWay.has(id)) throw new TypeError("a publish with this id is under way");
    return new Promise((resolve, reject) => {
      const never = { inDoubtSince: Infinity, before: Infinity };
      this.#underWay.set(id, { frame, bytes, resolve, reject, sent: false, ...never });
      this.#sendWaiting();
    });
  }

  /** A new connection, which takes frames of up to `limit` bytes: what is unacknowledged is repeated. */
  connected(link, limit) {
    this.#link = link;
    this.#limit = limit;
    for (const publish of this.#underWay.values()) publish.sent = false;
    this.#sendWaiting();
  }

  disconnected() {
    this.#link = null;
  }

  acknowledged({ id, seq }) {
    this.#take(id)?.resolve(seq);
    this.#sendWaiting();
  }

  refused(error) {
    const publish = this.#underWay.get(error.id);
    if (!publish) return;
    if (passes(error)) {
      publish.sent = false;
      if (!MAYBE_PUBLISHED.has(error.code)) publish.inDoubtSince = publish.before;
      this.#held ??= setTimeout(() => this.#release(), pauseMs(error));
    } else {
      this.#take(error.id).reject(new PublishError(error));
      this.#sendWaiting();
    }
  }

  end(why) {
    clearTimeout(this.#held);
    for (const id of [...this.#underWay.keys()]) this.#take(id).reject(why);
  }

  #take(id) {
    const publish = this.#underWay.get(id);
    this.#underWay.delete(id);
    return publish;
  }

  #release() {
    this.#held = undefined;
    this.#sendWaiting();
  }

  #sendWaiting() {
    if (this.#link === null || this.#held !== undefined) return;
    const now = Date.now();
    let unacknowledged = 0;
    for (const [id, publish] of this.#underWay) {
      if (unacknowledged === this.#window) return;
      if (!publish.sent) {
        const refusal = this.#refusal(publish, now);
        if (refusal) {
          this.#take(id).reject(new PublishError(refusal));
          continue;
        }
        this.#link.sendFrame(publish.frame);
        publish.sent = true;
        publish.before = publish.inDoubtSince;
        publish.inDoubtSince = Math.min(publish.inDoubtSince, now);
      }
      unacknowledged += 1;
    }
  }

  /** Why it is not to be sent, if so. */
  #refusal({ bytes, inDoubtSince }, now) {
    if (now - inDoubtSince > REPEATED_FOR_MS) {
      const message = "for minutes there was no acknowledgement; whether it was published is not known";
      return { code: "outcome_unknown", message };
    }
    if (bytes > this.#limit) {
      // The server would close the connection, and the repeats all that follow.
      return { code: "too_big", message: `${bytes} bytes are more than the ${this.#limit} that the server takes` };
    }
    return null;
  }
}

/** Questions about rooms without an answer. The server answers those about one room in the order they were sent. */
class Requests {
  static #ANSWERS = { join: "joined", leave: "left", presence: "presence", history: "history" };
  #waiting = [];

  get any() {
    return this.#waiting.length > 0;
  }

  /** The newest; one that was refused for now becomes that, too. */
  add(request) {
    this.#remove(request);
    this.#waiting.push(request);
  }

  /** The one that an event answers. */
  answer(event) {
    const request = this.#waiting.find(
      ({ sent, question }) => sent && question.room === event.room && Requests.#ANSWERS[question.type] === event.type,
    );
    if (request) {
      this.#remove(request);
      request.resolve(event);
    }
    return request;
  }

  /** The one that an error is about. It waits to be sent again, or for `drop`. */
  refused(error) {
    const request = this.#waiting.find(({ sent, question }) => sent && question.room === error.room);
    if (request) request.sent = false;
    return request;
  }

  drop(request, why) {
    this.#remove(request);
    request.reject(why);
  }

  /** For a new connection. */
  takeAll() {
    return this.#waiting.splice(0);
  }

  end(why) {
    for (const request of this.takeAll()) request.reject(why);
  }

  #remove(request) {
    this.#waiting = this.#waiting.filter((other) => other !== request);
  }
}

/** Whoever asked is told; a join that comes with a new connection has nobody to tell. `joining`: the room of a join. */
function makeRequest(question, joining, resolve = () => {}, reject = () => {}) {
  return { question, joining, resolve, reject, sent: false };
}

/**
 * One room as its member sees it: every message once and in order, or a reason why not.
 *
 * `position`: {epoch, seq} up to where messages have been handed out; join with it as `since` to go on from there.
 * `recovered`: whether the last join continued where it was asked to.
 */
export class Room {
  recovered = false;
  _joined = false;
  #mending;

  constructor(name, { since = null, members = false, onMessage = () => {} }) {
    this.name = name;
    this.members = members;
    this.position = since;
    this._onMessage = onMessage;
  }

  _question() {
    return { type: "join", room: this.name, since: this.position, members: this.members };
  }

  /** The server's answer to a join. Returns what it could not recover: a gap or a reset. */
  _start({ epoch, seq, recovered }) {
    const before = this.position;
    this._joined = true;
    this.recovered = recovered;
    // The replay starts where this room is, whatever else the server says.
    if (recovered && before?.epoch === epoch) return null;
    this.position = { epoch, seq };
    const room = this.name;
    if (before === null || (before.epoch === epoch && before.seq === seq)) return null;
    if (before.epoch === epoch && before.seq < seq) return { type: "gap", room, from: before.seq + 1, to: seq };
    return { type: "reset", room, epoch, seq };
  }

  /** There is a hole after `position`. True if resuming may close it: unless that was tried. */
  _mend() {
    const tried = this.#mending;
    this.#mending = this.position;
    return tried !== this.position;
  }

  /** Messages up to `last` will not come. Returns the part of them that was still expected. */
  _skip(last) {
    if (last <= this.position.seq) return null;
    const gap = { type: "gap", room: this.name, from: this.position.seq + 1, to: last };
    this.position = { epoch: this.position.epoch, seq: last };
    return gap;
  }
}

/**
 * One user's connection to the service at `url` (ws:// or wss://, with the path), for as long as it takes.
 *
 * Give one of: `token`, a JWT; `tokenFactory`, an (async) function that is asked for one when there is none, when it
 * expires, and when it was refused; `ticketFactory`, asked for a ticket before every handshake.
 * `maxUnacknowledged`: publishes that may wait for their acknowledgement; those after them wait before they are sent.
 *
 * It dispatches events whose `detail` is
 *     state   {state, reason}: every change of state and every failed try; the reason is for people
 *     gap     {room, from, to}: messages that will not come
 *     reset   {room, epoch, seq}: the room's count began anew; what came between is not known
 *     member  {room, user, event}: a user came or went, in a room that was joined with `members`
 *     removed {room, error}: the server does not let this client into a room, or not any longer
 *     error   {code, message}: the server's complaint about nothing in particular
 *
 * `state`: "connecting", "connected", "reconnecting" or "closed". `rooms`: those it is in, by name.
 * `duplicates`: messages that came twice and were dropped; `holes`: those that were missing without a word from the
 * server and made the client resume; `connects`: connections so far.
 */
export class Client extends EventTarget {
  state = "connecting";
  rooms = new Map();
  duplicates = 0;
  holes = 0;
  connects = 0;
  #url;
  #credentials;
  #publishes;
  #requests = new Requests();
  #pings = new Map();
  #backoff = new Backoff();
  #connection = null; // the newest one
  #link = null; // the same, once it was welcomed
  #dialAt = null;
  #dialling;
  #started = null;
  #end = null;

  constructor(url, { maxUnacknowledged = 64, ...credentials } = {}) {
    super();
    this.#url = String(url);
    this.#credentials = new Credentials(credentials);
    this.#publishes = new Publishes(maxUnacknowledged);
  }

  // Life.

  /** Wait for the first connection, however long that takes. Rejects with Closed if the server refuses it for good. */
  connect() {
    if (this.#started === null) {
      this.#started = promise();
      if (this.#end === null) this.#dial();
      else this.#started.reject(this.#end);
    }
    return this.#started.promise;
  }

  /** Leave. Whoever waits for an acknowledgement or an answer is told Closed. */
  close() {
    this.#finish("closed by the application");
  }

  /** Leave the connection as if the network had broken, and dial again. */
  abort(why) {
    this.#connection?.abort(why);
  }

  #finish(why) {
    if (this.#end !== null) return;
    this.#end = new Closed(why);
    clearTimeout(this.#dialling);
    this.#connection?.abort(why);
    this.#publishes.end(this.#end);
    this.#requests.end(this.#end);
    this.rooms.clear();
    this.#started?.reject(this.#end);
    this.#change("closed", why);
  }

  async #dial() {
    const startedAt = performance.now();
    let url, subprotocols;
    try {
      [url, subprotocols] = await this.#credentials.present(this.#url);
    } catch (error) {
      this.#again(`no credentials: ${error}`);
      return;
    }
    if (this.#end !== null) return;
    let link;
    try {
      link = new Link(url, subprotocols, {
        owing: () => this.#publishes.any || this.#requests.any,
        receive: (event) => this.#receive(link, event),
        ended: (why, code) => this.#ended(startedAt, why, code),
      });
    } catch (error) {
      this.#finish(`the browser does not dial: ${error.message}`); // no URL, no token, or ws:// from an https:// page
      return;
    }
    this.#connection = link;
  }

  #ended(startedAt, why, code) {
    clearTimeout(this.#dialling);
    this.#connection = this.#link = null;
    this.#publishes.disconnected();
    for (const { reject } of this.#pings.values()) reject(new Error("the connection ended"));
    this.#pings.clear();
    if (performance.now() - startedAt > STABLE_MS) this.#backoff.reset();
    if (code === NOT_ALLOWED && !this.#credentials.refused()) this.#finish(why);
    else this.#again(why);
  }

  #again(why) {
    if (this.#end !== null) return;
    // A server that says when is obeyed; from all others the crowd keeps its distance.
    const wait = this.#dialAt === null ? this.#backoff.next() : this.#dialAt - performance.now();
    this.#dialAt = null;
    this.#dialling = setTimeout(() => this.#dial(), wait);
    this.#change(this.connects ? "reconnecting" : "connecting", why);
  }

  #change(state, reason) {
    this.state = state;
    this.#tell("state", { state, reason });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #checkOpen() {
    if (this.#end !== null) throw this.#end;
    if (this.#started === null) throw new Error("call connect() first");
  }

  // Rooms.

  /**
   * Be a member of `room`, over every reconnect, until `leave`.
   *
   * `onMessage` takes its messages, {room, epoch, seq, user, ts, data} each: `user` published `data`, `ts` is Unix time
   * in seconds. `since`: where to go on; else from now. `members`: whether to hear who comes and goes.
   * Rejects with JoinError and Closed, and with TypeError if the client is in that room.
   */
  async join(room, options = {}) {
    this.#checkOpen();
    if (this.rooms.has(room)) throw new TypeError(`already in the room ${room}`);
    const joined = new Room(room, options);
    this.rooms.set(room, joined);
    await this.#ask(joined._question(), joined);
    return joined;
  }

  /** Rejects with Closed. */
  async leave(room) {
    this.#checkOpen();
    if (this.rooms.get(room.name) !== room) return;
    this.#forget(room);
    if (this.#link !== null) await this.#ask({ type: "leave", room: room.name });
  }

  /**
   * A page of the users in a room, by name: {members: [{user, connections}], count, more}. `after`: the last of the
   * page before. Rejects with ServerError and Closed.
   */
  async presence(room, { after = "", limit = PAGE_MAX } = {}) {
    this.#checkOpen();
    const { members, count, more } = await this.#ask({ type: "presence", room, after, limit });
    return { members, count, more };
  }

  /**
   * A room's last messages, or the last before a position, or the first since one: {messages, more}, oldest first.
   * Rejects with ServerError and Closed.
   */
  async history(room, { before = null, since = null, limit = PAGE_MAX } = {}) {
    this.#checkOpen();
    const { messages, more } = await this.#ask({ type: "history", room, before, since, limit });
    return { messages: messages.map(({ from, ...message }) => ({ room, ...message, user: from })), more };
  }

  /** Milliseconds to the server's program and back. Rejects with Closed, and with Error if there is no connection. */
  async ping() {
    this.#checkOpen();
    if (this.#link === null) throw new Error("not connected");
    const id = randomId();
    const answered = promise();
    const startedAt = performance.now();
    this.#pings.set(id, answered);
    this.#link.send({ type: "ping", t: id });
    await answered.promise;
    return performance.now() - startedAt;
  }

  #ask(question, joining) {
    return new Promise((resolve, reject) => this.#sendRequest(makeRequest(question, joining, resolve, reject)));
  }

  #sendRequest(request) {
    this.#requests.add(request);
    request.sent = this.#link !== null;
    this.#link?.send(request.question);
  }

  #forget(room) {
    if (this.rooms.get(room.name) === room) this.rooms.delete(room.name);
    room._joined = false;
  }

  // Publishing.

  /**
   * Publish to a room and resolve to the `seq` that the message got, over as many connections as it takes.
   *
   * `data`: anything that JSON can say. `id`: by which the server knows a repeat, else random. Publishes go out in the
   * order of the calls. Rejects with PublishError and Closed, and with TypeError for what is no JSON or under way.
   */
  async publish(room, data, { id } = {}) {
    this.#checkOpen();
    return this.#publishes.publish(room, data, id);
  }

  // Events.

  #receive(link, event) {
    switch (event.type) {
      case "welcome":
        return this.#welcomed(link, event);
      case "message":
        return this.#deliver(link, event);
      case "ack":
        return this.#publishes.acknowledged(event);
      case "joined":
        return this.#joined(event);
      case "gap":
        return this.#gap(link, event);
      case "reset":
        return this.#reset(event);
      case "member":
        return this.#tell("member", { room: event.room, user: event.user, event: event.event });
      case "left":
      case "presence":
      case "history":
        return this.#requests.answer(event);
      case "error":
        if (event.id != null) return this.#publishes.refused(event);
        if (event.room != null) return this.#requestRefused(link, event);
        return this.#tell("error", { code: event.code, message: event.message });
      case "pong":
        return this.#pong(event);
      case "expiring":
        return this.#renew(link);
      case "reconnect":
        return this.#reconnect(link, event);
      default: // of a later version of the protocol
    }
  }

  #welcomed(link, { heartbeat_s, max_message_bytes }) {
    link.welcomed(heartbeat_s * 1000);
    this.#link = link;
    this.connects += 1;
    this.#credentials.accepted();
    const asked = this.#requests.takeAll();
    for (const room of this.rooms.values()) {
      room._joined = false;
      const request = asked.find(({ joining }) => joining === room) ?? makeRequest(null, room);
      request.question = room._question();
      this.#sendRequest(request);
    }
    for (const request of asked) {
      if (request.question.type === "leave") request.resolve(); // the connection left with its rooms
      else if (request.question.type !== "join") this.#sendRequest(request);
    }
    this.#publishes.connected(link, max_message_bytes);
    this.#started.resolve();
    this.#change("connected", "");
  }

  #joined(event) {
    const request = this.#requests.answer(event);
    const room = this.rooms.get(event.room);
    // The answer to a join that was given up since says nothing of a later one's place.
    if (!room || request?.joining !== room) return;
    const missed = room._start(event);
    if (missed) this.#lost(missed);
  }

  #lost({ type, ...detail }) {
    this.#tell(type, detail);
  }

  #requestRefused(link, error) {
    const request = this.#requests.refused(error);
    const room = this.rooms.get(error.room);
    if (!request) {
      if (room) this.#expelled(room, error); // a fresh token may be for fewer rooms
    } else if (request.question.type !== "join") {
      this.#requests.drop(request, new ServerError(error));
    } else if (room && request.joining === room && passes(error)) {
      setTimeout(() => {
        if (this.#link === link && this.rooms.get(room.name) === room) this.#sendRequest(request);
      }, pauseMs(error));
    } else {
      this.#requests.drop(request, new JoinError(error));
      if (room && request.joining === room) this.#expelled(room, error);
    }
  }

  #expelled(room, error) {
    this.#forget(room);
    this.#tell("removed", { room, error: new JoinError(error) });
  }

  #member(name) {
    const room = this.rooms.get(name);
    return room?._joined ? room : null;
  }

  #deliver(link, { room: name, seq, from: user, ts, data }) {
    const room = this.#member(name);
    if (room === null) return;
    if (seq <= room.position.seq) {
      this.duplicates += 1;
      return;
    }
    if (seq > room.position.seq + 1 && !this.#passedHole(link, room, seq)) return;
    const { epoch } = room.position;
    room.position = { epoch, seq };
    try {
      room._onMessage({ room: name, epoch, seq, user, ts, data });
    } catch (error) {
      reportError(error); // the application's fault, which must not end the connection
    }
  }

  #gap(link, { room: name, from, to }) {
    const room = this.#member(name);
    if (room === null) return;
    if (from > room.position.seq + 1 && !this.#passedHole(link, room, from)) return;
    const gap = room._skip(to);
    if (gap !== null) this.#lost(gap);
  }

  /** What is before `seq` did not come. Resume, which brings it; if that was of no use, say so and go on. */
  #passedHole(link, room, seq) {
    this.holes += 1;
    if (room._mend()) {
      link.abort(`messages are missing before ${seq} in ${room.name}`);
      return false;
    }
    this.#lost(room._skip(seq - 1));
    return true;
  }

  #reset({ room: name, epoch, seq }) {
    const room = this.#member(name);
    if (room === null) return;
    room.position = { epoch, seq };
    this.#lost({ type: "reset", room: name, epoch, seq });
  }

  #pong({ t: id }) {
    this.#pings.get(id)?.resolve();
    this.#pings.delete(id);
  }

  async #renew(link) {
    let token;
    try {
      token = await this.#credentials.renew();
    } catch {
      return; // the server closes the connection, and the next one asks again
    }
    if (token !== undefined && this.#link === link) link.send({ type: "auth", token });
  }

  /** Until the time comes to dial again, the old connection serves. */
  #reconnect(link, { after_ms, reason }) {
    clearTimeout(this.#dialling);
    this.#dialAt = performance.now() + after_ms;
    this.#dialling = setTimeout(() => link.abort(reason), after_ms);
  }
}

function promise() {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  parts.promise.catch(() => {}); // whoever waits is told; nobody has to
  return parts;
}

/** crypto.randomUUID is for pages over https only. */
function randomId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

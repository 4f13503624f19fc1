// SPDX-License-Identifier: MIT
/** Types of wsclient.js, which describes them, as does docs/clients.md. */

/** Any JSON value. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** A place in a room's log: compare `epoch` for equality only. */
export interface Position {
  epoch: string;
  seq: number;
}

export interface Message<Data = any> extends Position {
  room: string;
  /** The publisher. */
  user: string;
  /** Unix time in seconds. */
  ts: number;
  data: Data;
}

export type State = "connecting" | "connected" | "reconnecting" | "closed";

/** One of the three kinds of credentials. */
export type Credentials =
  | { token: string; tokenFactory?: undefined; ticketFactory?: undefined }
  | { tokenFactory: () => string | Promise<string>; token?: undefined; ticketFactory?: undefined }
  | { ticketFactory: () => string | Promise<string>; token?: undefined; tokenFactory?: undefined };

export type ClientOptions = Credentials & {
  /** How many publishes may be unacknowledged; 64 by default. */
  maxUnacknowledged?: number;
};

export interface JoinOptions<Data = any> {
  /** The position to resume from; from now by default. */
  since?: Position | null;
  /** Whether to get member events. */
  members?: boolean;
  onMessage?: (message: Message<Data>) => void;
}

export interface PresencePage {
  members: { user: string; connections: number }[];
  count: number;
  more: boolean;
}

export interface HistoryPage<Data = any> {
  /** Oldest first. */
  messages: Message<Data>[];
  more: boolean;
}

export interface ClientEventMap {
  state: CustomEvent<{ state: State; reason: string }>;
  gap: CustomEvent<{ room: string; from: number; to: number }>;
  reset: CustomEvent<{ room: string } & Position>;
  member: CustomEvent<{ room: string; user: string; event: "join" | "leave" }>;
  removed: CustomEvent<{ room: Room; error: JoinError }>;
  error: CustomEvent<{ code: string; message: string }>;
}

export class Closed extends Error {
  name: "Closed";
}

export class ServerError extends Error {
  constructor(error: { code: string; message: string });
  name: string;
  code: string;
}

export class JoinError extends ServerError {
  name: "JoinError";
}

export class PublishError extends ServerError {
  name: "PublishError";
}

/** A room that a client is in. `Client.join` makes it. */
export class Room {
  private constructor();
  readonly name: string;
  readonly members: boolean;
  readonly position: Position | null;
  readonly recovered: boolean;
}

export class Client extends EventTarget {
  constructor(url: string | URL, options: ClientOptions);
  readonly state: State;
  readonly rooms: Map<string, Room>;
  readonly duplicates: number;
  readonly holes: number;
  readonly connects: number;
  connect(): Promise<void>;
  close(): void;
  abort(why: string): void;
  retryNow(): void;
  join<Data = any>(room: string, options?: JoinOptions<Data>): Promise<Room>;
  leave(room: Room): Promise<void>;
  publish(room: string, data: Json, options?: { id?: string }): Promise<number>;
  presence(room: string, options?: { after?: string; limit?: number }): Promise<PresencePage>;
  history<Data = any>(
    room: string,
    options?: { before?: Position | null; since?: Position | null; limit?: number },
  ): Promise<HistoryPage<Data>>;
  ping(): Promise<number>;
  addEventListener<Type extends keyof ClientEventMap>(
    type: Type,
    listener: (event: ClientEventMap[Type]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<Type extends keyof ClientEventMap>(
    type: Type,
    listener: (event: ClientEventMap[Type]) => void,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}

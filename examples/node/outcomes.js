// Follows what the ledger decided: the topics of outcomes and of dead letters.
import { randomUUID } from 'node:crypto'
import { Consumer, MessagesStreamModes } from '@platformatic/kafka'

export class Outcomes {
  // A service keeps these in its database, with the offsets, in one transaction, and goes on from there.
  #decided = new Map()
  #dead = new Map()
  #waiting = new Set()

  constructor (bootstrap, topics, schemas) {
    this.topics = topics
    this.schemas = schemas
    // It reads what is committed only, which is this library's default (isolationLevel).
    this.consumer = new Consumer({
      clientId: 'shop',
      groupId: `shop-${randomUUID()}`,
      bootstrapBrokers: bootstrap,
      autocommit: false
    })
  }

  async start () {
    const topics = [this.topics.outcomes, this.topics.deadLetters]
    this.stream = await this.consumer.consume({ topics, mode: MessagesStreamModes.EARLIEST })
    this.stream.on('data', message => this.#take(message))
  }

  #take ({ topic, value, headers }) {
    const header = name => [...headers].findLast(([key]) => key.toString() === name)?.[1].toString()
    if (topic === this.topics.deadLetters) {
      const position = `${header('creditfold-partition')}:${header('creditfold-offset')}`
      this.#dead.set(position, header('creditfold-reason'))
    } else {
      const { record, fields } = this.schemas.decode(value) ?? {}
      const key = fields?.command_id && `${fields.account}\n${fields.command_id}`
      // A command id is decided once: the first outcome stands.
      if (key && !this.#decided.has(key)) {
        const isAccepted = record === 'creditfold.outcomes.CommandAccepted'
        this.#decided.set(key, { ...fields, isAccepted, position: header('creditfold-position') })
      }
    }
    this.#waiting.forEach(look => look())
  }

  // What became of the command that was appended at a position. A command that was decided before has no outcome of its
  // own; its first one counts, if it was of the same command. Another command under a used id is a dead letter.
  #find (position, kind, command) {
    const reason = this.#dead.get(position)
    if (reason) return { result: 'dead letter', reason }
    const found = this.#decided.get(`${command.account}\n${command.command_id}`)
    const isSame = found?.kind === kind && found.asset === command.asset && found.amount === BigInt(command.amount)
    if (!found || !(found.position === position || isSame)) return null
    const result = found.isAccepted ? 'accepted' : 'rejected'
    return { result, reason: found.rejection ?? '', balance: found.balance.toString(), decided: found.position }
  }

  wait (position, kind, command, timeoutMs) {
    return new Promise((resolve, reject) => {
      const look = () => {
        const found = this.#find(position, kind, command)
        if (found) end(resolve, found)
      }
      const end = (settle, value) => {
        clearTimeout(timer)
        this.#waiting.delete(look)
        settle(value)
      }
      // The command is in the log all the same: whoever sends it again gets this very outcome.
      const timer = setTimeout(() => end(reject, new Error(`no outcome of ${position} in time`)), timeoutMs)
      this.#waiting.add(look)
      look()
    })
  }

  async close () {
    await this.stream.close()
    await this.consumer.close()
  }
}

package group

import (
	"fmt"
	"log/slog"
)

// raftLogger passes raft's messages on, a level lower than raft has them: what
// is news to raft's developers is not to an operator.
type raftLogger struct{ log *slog.Logger }

func (l raftLogger) Debug(v ...any)            {}
func (l raftLogger) Debugf(f string, v ...any) {}
func (l raftLogger) Info(v ...any)             { l.log.Debug("raft", "message", fmt.Sprint(v...)) }

func (l raftLogger) Infof(f string, v ...any)    { l.log.Debug("raft", "message", fmt.Sprintf(f, v...)) }
func (l raftLogger) Warning(v ...any)            { l.log.Warn("raft", "message", fmt.Sprint(v...)) }
func (l raftLogger) Warningf(f string, v ...any) { l.log.Warn("raft", "message", fmt.Sprintf(f, v...)) }

func (l raftLogger) Error(v ...any) { l.log.Error("raft", "message", fmt.Sprint(v...)) }

func (l raftLogger) Errorf(f string, v ...any) { l.log.Error("raft", "message", fmt.Sprintf(f, v...)) }

// Raft calls these when its own invariants do not hold: going on would risk the
// data.
func (l raftLogger) Fatal(v ...any)            { panic(fmt.Sprint(v...)) }
func (l raftLogger) Fatalf(f string, v ...any) { panic(fmt.Sprintf(f, v...)) }
func (l raftLogger) Panic(v ...any)            { panic(fmt.Sprint(v...)) }
func (l raftLogger) Panicf(f string, v ...any) { panic(fmt.Sprintf(f, v...)) }

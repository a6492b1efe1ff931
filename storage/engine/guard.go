package engine

import (
	"errors"
	"fmt"
)

// Guard is between a program and databases that may be damaged: of some damage Pebble
// panics, and of some the goroutine that has met it ends.
type Guard struct{ fatal chan error }

// NewGuard returns a Guard, whose Fatal is to be that of the databases.
func NewGuard() *Guard { return &Guard{make(chan error, 1)} }

// Fatal is for Config.Fatal and ReadConfig.Fatal.
func (g *Guard) Fatal(err error) {
	select {
	case g.fatal <- err:
	default: // the first says it
	}
}

// Do calls fn, on a goroutine of its own, and returns an error also where fn does not
// come back. For one goroutine at a time.
func (g *Guard) Do(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errors.New("the database has given up")
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("%v", p)
			}
			select {
			case err = <-g.fatal:
			default:
			}
			done <- err
		}()
		err = fn()
	}()
	return <-done
}

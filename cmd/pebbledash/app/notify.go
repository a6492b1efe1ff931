package app

import (
	"fmt"
	"net"
)

// notifySystemd tells the service manager about a change of state, such as
// "READY=1", over the datagram socket that NOTIFY_SOCKET names; see
// sd_notify(3). Without a socket there is nobody to tell.
func notifySystemd(socket, state string) error {
	if socket == "" {
		return nil
	}
	// A name that begins with @ is in the abstract namespace, to package net too.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("cannot notify the service manager: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("cannot notify the service manager: %w", err)
	}
	return nil
}
